#!/usr/bin/env bash
# search.sh FLAGS: begin the study $LUNGTUNE_STUDY with these flags of `lungtune search`, or go on with it.
#
# A job that is started again runs the same line again. A resumed study keeps its space, data and settings: the flags
# are for its beginning. LUNGTUNE_BUDGET bounds each run (30m, 23h); empty: no bound.
set -euo pipefail

study=${LUNGTUNE_STUDY:?must name the study}
journal=${LUNGTUNE_HOME:?must name a folder that all nodes share}/studies/$study/journal.jsonl
limit=()
if [[ -n ${LUNGTUNE_BUDGET:-} ]]; then
    limit=(--budget "$LUNGTUNE_BUDGET")
fi
# A study has begun once its first event is written; before that its name is still free.
if grep -qs '^{"event":"study"' "$journal"; then
    exec lungtune search --resume --study "$study" "${limit[@]}"
fi
exec lungtune search --study "$study" "${limit[@]}" "$@"
