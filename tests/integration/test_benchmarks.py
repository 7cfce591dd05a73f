"""Smoke tests of the benchmarks, and the whole comparison at a tiny size."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lungtune.core.paths import ROOT
from lungtune.errors import SpaceError
from peer import job

SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_benchmark_answers_help(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(path), run_name="__main__")
    assert "usage:" in capsys.readouterr().out


def test_peer_job_starts_from_a_point_on_every_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))
    searched, settings = job.space("clip_lora", "demo", 0.9)
    assert settings["synthetic_ratio"] == 0
    built = job.make(searched, "phantom,n=100,test=30", 0)
    assert set(built["axes"]) <= set(built["points"][0])
    assert len(built["reports"]) == 9
    point = {name: value for name, value in searched.start[0].items() if name != "lr"}
    with pytest.raises(SpaceError, match=r"each start point must name every axis.*clip_lora lacks lr"):
        job.make(dataclasses.replace(searched, start=(point,)), "phantom,n=100,test=30", 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_peer_search_runs_all_sides_at_a_tiny_size(tmp_path: Path) -> None:
    """Minutes: three searches, each with a Ray of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "peer_search.py"), "--data", "phantom,n=160,test=40"]
    command += ["--limit", "120", "--trials", "2", "--passes", "0.9", "--repeat", "1", "--concurrency", "2"]
    command += ["--profile", "--json", str(tmp_path / "peer.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, cwd=tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    content = json.loads((tmp_path / "peer.json").read_text())
    assert set(content["runs"]) == {"lungtune", "i", "ii"}
    for side, (run,) in content["runs"].items():
        assert run["trials"] == 2, side
        assert 0.1 < run["passes"] < 2, side
        assert {"train", "evaluate", "checkpoint"} <= set(run["phases"]), side
    assert len({run["split"] for (run,) in content["runs"].values()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "features.py --trials 2 --uncached 1 --data phantom,n=120,test=40",
        "packing.py --quick --models tiny_clip --batches 8 --counts 1 2 --processes 2 --seconds 0.3 --turns 1",
    ],
    ids=["features", "packing"],
)
def test_benchmark_runs_at_a_tiny_size(command: str, tmp_path: Path) -> None:
    script, *words = command.split()
    environment = os.environ | {"LUNGTUNE_HOME": str(tmp_path), "PYTHONPATH": f"{ROOT}/src:{ROOT}:{ROOT}/benchmarks"}
    run = [sys.executable, str(ROOT / "benchmarks" / script), *words, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert json.loads((tmp_path / "found.json").read_text())
