"""Smoke tests of the benchmarks, and the whole comparison at a tiny size."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from lungtune.commands import app
from lungtune.core.paths import ROOT
from lungtune.data.phantom import generate
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
        "reading.py --side 300 --count 2 --turns 1",
        "tables.py --models resnet18 --size 32 --cases 70 --few 8 --batches 4 --turns 1",
        "trials.py --repeat 1 --trials 2 4",
        "engines.py --space clip_head --data phantom,n=100,test=30 --trials 2 --repeat 1 --set batch_size=16",
        "tune_matrix.py --families clip_head --schedulers asha --trials 2",
    ],
    ids=["features", "packing", "reading", "tables", "trials", "engines", "tune_matrix"],
)
def test_benchmark_runs_at_a_tiny_size(command: str, tmp_path: Path) -> None:
    script, *words = command.split()
    benchmark(tmp_path, script, *words, "--json", str(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text())


def benchmark(folder: Path, script: str, *words: str) -> str:
    """Run a benchmark to its end; return what it printed."""
    environment = os.environ | {"LUNGTUNE_HOME": str(folder), "PYTHONPATH": f"{ROOT}/src:{ROOT}:{ROOT}/benchmarks"}
    run = [sys.executable, str(ROOT / "benchmarks" / script), *words]
    done = subprocess.run(run, capture_output=True, text=True, timeout=220, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.slow
def test_bases_are_probed_at_a_tiny_size(tmp_path: Path) -> None:
    printed = benchmark(tmp_path, "bases.py", "tiny_resnet", "tiny_clip", "--pictures", "240", "--random", "1")
    found = re.findall(r"\| `(\w+)` \| (\d\.\d+) \| (\d\.\d+) \|", printed)
    assert [name for name, *_ in found] == ["tiny_resnet", "tiny_clip"]


def test_long_run_is_measured_at_a_tiny_size(tmp_path: Path) -> None:
    words = ["--trials", "60", "--every", "30", "--no-mlflow", "--json", str(tmp_path / "found.json")]
    printed = benchmark(tmp_path, "long_run.py", *words)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["trials"] for row in found["rows"]] == [30, 60]
    assert all(row["driver_ms"] > 0 for row in found["rows"])
    assert "opening:" in printed


@pytest.mark.slow
def test_long_run_delivers_to_mlflow_at_a_tiny_size(tmp_path: Path) -> None:
    words = ["--trials", "20", "--every", "10", "--terminal", "--json", str(tmp_path / "found.json")]
    benchmark(tmp_path, "long_run.py", *words)
    assert json.loads((tmp_path / "found.json").read_text())["problem"] == ""


def test_near_copies_are_measured_at_a_tiny_size(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    films = list(generate(24, seed=0, domain="B", size=96))
    for number, film in enumerate(films):
        Image.fromarray(film.image).save(images / f"{film.patient_id}-{number}.png")
    words = ["--images", str(images), "--changed", "6", "--rows", "40", "--json", str(tmp_path / "found.json")]
    printed = benchmark(tmp_path, "near_copies.py", *words)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == len(films)
    assert found["recall"]["flipped"]["found"] == 6
    assert found["rows"][0]["recall"] > 0.5
    assert "| inverted | 6 of 6 | 1.000 |" in printed


@pytest.mark.slow
def test_drawings_are_scored_at_a_tiny_size(tmp_path: Path) -> None:
    words = ["--kind", "2", "--steps", "2", "--corpus", "200", "--pictures", "240"]
    printed = benchmark(tmp_path, "drawings.py", *words, "--sheet", str(tmp_path / "sheet.png"))
    assert re.findall(r"^\| (\w+) \|", printed, re.MULTILINE) == ["pictures", "copies", "drawings"]
    assert "linear probe on domain B, copies: 0." in printed
    assert (tmp_path / "sheet.png").stat().st_size > 0


@pytest.mark.slow
def test_schedulers_are_compared_on_a_tiny_table(tmp_path: Path) -> None:
    rows = ["lr,kind," + ",".join(f"epoch_{n}" for n in range(1, 10))]
    for number in range(30):
        curve = ",".join(f"{(0.5 + number / 100) * n / (n + 1):.4f}" for n in range(1, 10))
        rows.append(f"{1e-4 * (number + 1):.4g},{'ab'[number % 2]},{curve}")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    words = ["--table", str(tmp_path / "mine.csv"), "--seeds", "1", "--out", str(tmp_path / "out")]
    printed = benchmark(tmp_path, "schedulers.py", *words, "--methods", "default,random,stop,short,stock")
    assert printed.count("\n| ") == 6
    (part,) = json.loads((tmp_path / "out" / "mine" / "summary.json").read_text()).values()
    assert [row["method"] for row in part] == ["default", "random", "stop", "short", "stock"]


DOCUMENTS = ("README.md", "benchmarks/README.md", "search_spaces/README.md", "CONTRIBUTING.md", "docs/optuna.md")
DOCUMENTS += ("examples/cluster/README.md",)


def commands(pattern: str) -> list[tuple[str, str]]:
    """Return every command of the documents that a pattern finds: what runs, and its words."""
    lines = {}
    for document in DOCUMENTS:
        text = (ROOT / document).read_text().replace("\\\n", " ")
        for line in re.findall(pattern, text):
            name, _, words = line.partition(" ")
            lines[name, words.strip()] = None
    return list(lines)


class Parsed(Exception):
    """A command line was parsed."""


@pytest.mark.parametrize(
    ("name", "words"),
    commands(r"(?:uv run lungtune |^lungtune |python scripts/)((?:search|data|export|retrain|synthesize|ui)\b[^`\n]*)"),
    ids=lambda value: value[:50],
)
def test_documented_command_parses(name: str, words: str) -> None:
    command = typer.main.get_command(app).commands[name.removesuffix(".py")]  # type: ignore[attr-defined]
    words = words.removeprefix(".py").strip()
    assert command.make_context(name, shlex.split(words, comments=True)).command is command


@pytest.mark.parametrize(
    ("script", "words"), commands(r"python (benchmarks/\w+\.py[^`\n]*)"), ids=lambda value: value[:50]
)
def test_documented_benchmark_parses(script: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: Any) -> None:
        parse(self, *given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [script, *shlex.split(words, comments=True)])
    with pytest.raises(Parsed, match=r"^$"):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_options_named_in_the_readme_exist(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    _, _, section = text.partition(f"## {path.name}\n")
    spans = re.findall(r"`([^`]*)`", section.partition("\n## ")[0])
    named = {word for span in spans if span.startswith("--") for word in span.split() if word.startswith("--")}
    known: set[str] = set()

    def parse_args(self: argparse.ArgumentParser, *given: Any) -> None:
        known.update(self._option_string_actions)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [str(path)])
    with pytest.raises(Parsed, match=r"^$"):
        runpy.run_path(str(path), run_name="__main__")
    assert named <= known
