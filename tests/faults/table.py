"""Write docs/faults.md: ``python -m tests.faults.table FILE``, from the rows that the fault tests recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """# Faults and what they do to a search

Each row is a fault that a test in `tests/faults/` injects, what the search makes of it, and the seconds from the start
of the search to the end of the checks (two cores). After each, one checker (`tests/faults/checker.py`) reads journal,
summary and MLflow: no trial or report lost or doubled, all three equal, no traceback.
Write the table again: `LUNGTUNE_FAULTS=rows.jsonl uv run pytest tests/faults` with and without `-m slow`, then
`uv run python -m tests.faults.table rows.jsonl`.

| fault | result | seconds | test |
|---|---|---|---|
"""


def write(rows: list[dict[str, str]]) -> str:
    """Return the page for rows of ``fault``, ``result``, ``seconds``, ``test``; of equal faults the last counts."""
    last = {(row["test"].split("::")[0], row["fault"]): row for row in rows}
    lines = [
        f"| {row['fault']} | {row['result']} | {row['seconds']} | {Path(row['test'].split('::')[0]).stem} |"
        for row in sorted(last.values(), key=lambda row: (row["test"].split("::")[0], row["fault"]))
    ]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    recorded = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    PAGE.write_text(write(recorded), encoding="utf-8")
