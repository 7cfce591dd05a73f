"""A search in a process of its own (``driver.py``), and what a fault test does to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lungtune.core import journal

HERE = Path(__file__).parent
KINDS: dict[str, Callable[[list[str]], bool]] = {
    "host": lambda words: words[0].startswith("ray::") and "Host" in words[0],
    "raylet": lambda words: words[0].endswith("/raylet"),
    "gcs": lambda words: words[0].endswith("/gcs_server"),
    "agent": lambda words: words[0].startswith("ray::") and "Agent" in words[0],
    "any": lambda words: True,
}
"""Processes below a driver, by their command line."""


class Left(NamedTuple):
    """Exit code and output of a process that ended."""

    code: int
    out: str
    err: str


class Drive:
    """A search with simulated training.

    Args:
        home: ``LUNGTUNE_HOME``; created.
        study: name.
        engine: ``hosts`` or ``tune``.
        uri: of MLflow.
        env: more environment, such as ``TRIALS``, ``SECONDS``, ``FAULTS`` (``driver.py``).
    """

    def __init__(self, home: Path, uri: str, engine: str = "hosts", study: str = "s", **env: object) -> None:
        self.home, self.uri, self.engine, self.name = home, uri, engine, study
        home.mkdir(parents=True, exist_ok=True)
        self.folder = home / "studies" / study
        self.env = {**os.environ, "LUNGTUNE_HOME": str(home), "MLFLOW_TRACKING_URI": uri, "COLUMNS": "200"}
        self.env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "integration"), str(HERE.parents[1])])
        self.env |= {name: str(value) for name, value in env.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self._before = 0

    def start(self, *flags: str, wrap: Sequence[str] = (), **options: object) -> Drive:
        """Begin the study, or resume it where its journal exists; ``wrap`` precedes the command line."""
        self._before = len(self.events())
        known = ["--resume"] if self._before else ["--engine", self.engine]
        words = [sys.executable, str(HERE / "driver.py"), "--study", self.name, *known, *flags]
        with open(self.home / "out", "wb") as out, open(self.home / "err", "wb") as err:
            files = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err} | options
            self.process = subprocess.Popen([*wrap, *words], env=self.env, start_new_session=True, **files)  # type: ignore[call-overload]
        return self

    @property
    def pid(self) -> int:
        """Process id of the driver."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """True while the driver lives."""
        return self.process is not None and self.process.poll() is None

    def events(self, kind: str | None = None) -> list[dict[str, object]]:
        """Return the journal's events, of one kind or all."""
        return [each for each in journal.read(self.folder / "journal.jsonl") if kind in (None, each["event"])]

    def wait_for(self, kind: str, count: int = 1, seconds: float = 120.0) -> None:
        """Wait until the journal has ``count`` events of a kind since the start."""
        end = time.monotonic() + seconds
        while sum(each["event"] == kind for each in self.events()[self._before :]) < count:
            assert self.process is not None
            assert self.process.poll() is None, f"ended before {kind}:\n{self.output()}"
            assert time.monotonic() < end, f"no {kind} within {seconds:g} s:\n{self.output()}"
            time.sleep(0.02)

    def children(self, kind: str = "any") -> list[int]:
        """Return the ids of the processes below the driver, of one of ``KINDS``."""
        return below(self.pid, KINDS[kind])

    def kill(self, kind: str, number: int = signal.SIGKILL) -> int:
        """Signal the first process of a kind below the driver; return its id."""
        found = self.children(kind)
        assert found, f"no {kind} below the driver"
        os.kill(found[0], number)
        return found[0]

    def signal(self, number: int) -> None:
        """Signal the driver alone."""
        os.kill(self.pid, number)

    def output(self) -> str:
        """Return what the driver printed so far, stdout then stderr."""
        names = [name for name in ("out", "err") if (self.home / name).exists()]
        return "".join((self.home / name).read_text(errors="replace") for name in names)

    def end(self, seconds: float = 180.0) -> Left:
        """Wait for the driver's end."""
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"still running after {seconds:g} s:\n{self.output()}") from None
        out, err = ((self.home / name).read_text(errors="replace") for name in ("out", "err"))
        return Left(self.process.returncode, out, err)

    def close(self) -> None:
        """Kill what is left of driver and children."""
        if self.process is not None and self.process.poll() is None:
            for pid in (self.pid, *self.children()):
                kill(pid)
            self.process.wait()


def below(ancestor: int, matches: Callable[[list[str]], bool]) -> list[int]:
    """Return the ids of the live processes below another, oldest first."""
    parents, lines = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if state != "Z":
            parents[int(entry.name)], lines[int(entry.name)] = int(parent), words

    def inside(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == ancestor:
                return True
        return False

    return sorted(pid for pid, words in lines.items() if inside(pid) and matches(words))


def kill(pid: int) -> None:
    """Kill a process if it lives."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def gone(pids: Sequence[int], seconds: float = 20.0) -> bool:
    """Wait until none of some processes lives; return True if so."""
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if _alive(pid)]:
        if time.monotonic() > end:
            return not left
        time.sleep(0.1)
    return True


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
