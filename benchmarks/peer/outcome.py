"""Outcome of a run, read from lungtune's journal or from the marks of the stock search."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from peer import marks


def of_lungtune(home: Path, noted: Path, metric: str) -> dict[str, Any]:
    """Read the only study of a home; ``noted`` are the marks of a timed run, or missing."""
    study = next((home / "studies").iterdir())
    events = [json.loads(line) for line in (study / "journal.jsonl").read_text().splitlines()]
    batch = {e["trial"]: e["params"]["batch_size"] for e in events if e["event"] == "trial"}
    cases = next(e for e in events if e["event"] == "study")["data"]["counts"]["train"]
    reports = [
        {
            "time": e["time"],
            "trial": e["trial"],
            "start": e["trial"] == 0,
            "passes": e["samples"] / cases,
            "steps": e["samples"] / batch[e["trial"]],
            "score": e["metrics"][metric],
        }
        for e in events
        if e["event"] == "report"
    ]
    noted_lines = marks.read(noted)
    first = [line["time"] for line in noted_lines if line["event"] == "first step"]
    begun = [e["time"] - e["seconds"] for e in events if e["event"] == "report"]  # when its trial joined or went on
    when: dict[str, float] = {}
    for e in events:
        when[e["event"]] = when.get(e["event"], e["time"]) if e["event"] in ("start", "report") else e["time"]
    return {
        **_summed(reports, min(first or begun)),
        "split": json.loads((study / "split.json").read_text())["hash"],
        "phases": _phases(noted_lines),
        "when": {
            "data checked": when["open"],
            "first trial started": when["start"],
            "first report": when["report"],
            "last trial ended": when["end"],
            "summary written": when["stop"],
        },
        "points": [e["sampled"] for e in events if e["event"] == "trial"],
        **_logged(home / "mlflow" / "state" / "mlflow.db"),
    }


def of_peer(noted: Path, store: Path, cases: int, split: str) -> dict[str, Any]:
    """Read the marks of a stock search."""
    lines = marks.read(noted)
    numbers: dict[str, int] = {}
    reports = [
        {
            "time": line["time"],
            "trial": numbers.setdefault(line["trial"], len(numbers)),
            "start": line["start"],
            "passes": line["samples"] / cases,
            "steps": line["samples"] / line["batch_size"],
            "score": line["score"],
        }
        for line in lines
        if line["event"] == "report"
    ]
    when = {name: [line["time"] for line in lines if line["event"] == name] for name in ("fit", "begin", "done")}
    return {
        **_summed(reports, min(line["time"] for line in lines if line["event"] == "first step")),
        "split": split,
        "phases": _phases(lines),
        "when": {
            "Ray started": when["fit"][0],
            "first trial started": when["begin"][0],
            "first report": reports[0]["time"],
            "last trial ended": reports[-1]["time"],
            "search done": when["done"][0],
        },
        **_logged(store),
    }


def time_to(target: float, reports: Sequence[Mapping[str, Any]], began: float) -> float | None:
    """Return the seconds from the command to the first report that reached a score."""
    return next((r["time"] - began for r in reports if r["score"] >= target), None)


def _summed(reports: list[dict[str, Any]], first_step: float) -> dict[str, Any]:
    last = {r["trial"]: r for r in reports}  # a trial's reports count from its beginning
    return {
        "reports": reports,
        "first_step": first_step,
        "trials": len(last),
        "passes": sum(r["passes"] for r in last.values()),
        "steps": sum(r["steps"] for r in last.values()),
        "best": max(r["score"] for r in reports),
        "start_score": max(r["score"] for r in reports if r["start"]),
    }


def _phases(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for line in lines:
        total.update(line.get("phases", {}))
    return dict(total)


def _logged(database: Path) -> dict[str, int]:
    """Return how many runs and metric values a MLflow store holds."""
    with closing(sqlite3.connect(database)) as store:
        count = lambda table: store.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: E731
        return {"logged_runs": count("runs"), "logged_values": count("metrics")}
