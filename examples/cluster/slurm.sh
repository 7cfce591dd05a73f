#!/usr/bin/env bash
# One search over a SLURM allocation: sbatch examples/cluster/slurm.sh [FLAGS]. README.md beside it says what it needs.
#SBATCH --job-name=lungtune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@900
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

# --- yours ------------------------------------------------------------------------------------------------------------
# `lungtune` and `ray` must be on PATH on all nodes, for instance: source /shared/venv/bin/activate
flags=(--space clip_lora --data "chest_xray:/shared/chest_xray")
export LUNGTUNE_HOME=${LUNGTUNE_HOME:-/shared/$USER/lungtune}
export LUNGTUNE_CACHE=${LUNGTUNE_CACHE:-$LUNGTUNE_HOME/cache}
# A requeued job keeps name and number, and so goes on with its study.
export LUNGTUNE_STUDY=${LUNGTUNE_STUDY:-$SLURM_JOB_NAME-$SLURM_JOB_ID}
# Shorter than --time less --signal. Empty: until the signal, then queued again until the search is done.
export LUNGTUNE_BUDGET=${LUNGTUNE_BUDGET-23h}
# ----------------------------------------------------------------------------------------------------------------------
if (($# > 0)); then
    flags=("$@")
fi
mkdir -p "$LUNGTUNE_HOME" "$LUNGTUNE_CACHE"
search=${LUNGTUNE_SEARCH:-$SLURM_SUBMIT_DIR/examples/cluster/search.sh} # SLURM runs a copy of this file elsewhere

# The head of the Ray cluster is the node this script runs on, the first one. On several nodes no loopback address.
address=${LUNGTUNE_HEAD_IP:-$(hostname -I | cut -d' ' -f1)}:${LUNGTUNE_HEAD_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
gpus=${SLURM_GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-0}}
gpus=${gpus##*:} # of a100:4
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp/lungtune-$SLURM_JOB_ID} # short, for sockets; /tmp/ray may be another user's
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}
# Without a token, whoever reaches the port can run code as you.
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

# The signal reaches this script only (B:), and of the step only the search: Ray has to outlive it.
run=$(mktemp --directory)
stopped= interrupted=
hand_on() {
    interrupted=yes
    kill -TERM "$(cat "$run/pid" 2>/dev/null || echo "$step")" || true
}
trap 'stopped=yes; hand_on' USR1 # the time limit is near
trap hand_on TERM                # cancelled or preempted: SLURM decides whether to queue it again

# On the first node `ray symmetric-run` starts the head, waits for the other nodes and runs what follows `--`; on the
# others it joins until that ends. RAY_ADDRESS lets the search join as well: without it, it starts a Ray of its own.
# The search's exit code goes through a file: over several nodes symmetric-run of Ray 2.60 ends with 1 after any.
export address search run
# shellcheck disable=SC2016
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$cpus" --num-gpus "$gpus" --disable-usage-stats -- \
    bash -c 'RAY_ADDRESS=$address bash "$search" "$@" & echo $! >"$run/pid"; wait $!; echo $? >"$run/code"' \
    search "${flags[@]}" &
step=$!
while true; do
    interrupted= code=0
    wait "$step" || code=$?
    if [[ -z $interrupted ]]; then # else the wait has ended, not the step
        break
    fi
done
if [[ -s $run/code ]]; then
    code=$(<"$run/code")
fi
rm -rf "$run"

# 3: stopped, resumable. Above 128: by the signal before the search began. A spent budget is not queued again.
if [[ -n $stopped ]] && ((code == 3 || code > 128)); then
    echo "stopped ahead of the time limit; queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
