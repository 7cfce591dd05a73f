"""Stop requests: signals, the time budget, streams that nobody reads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lungtune.core import stopping
from lungtune.core.stopping import SPENT, Stopped, Stops, stoppable


@pytest.fixture
def stops() -> Iterator[Stops]:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable() as active:
        yield active
    assert signal.getsignal(signal.SIGTERM) is before


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_raises_with_its_name(stops: Stops, number: signal.Signals) -> None:
    with pytest.raises(Stopped, match=number.name):
        send(number)
    assert stops.reason == number.name


def test_spent_budget_raises(stops: Stops) -> None:
    stops.limit(0.2)
    with pytest.raises(Stopped, match=SPENT):
        time.sleep(10)
    assert stops.spent


def test_budget_that_is_over_already_raises(stops: Stops) -> None:
    time.sleep(0.02)

    def limited() -> None:
        stops.limit(0.01)
        time.sleep(10)

    with pytest.raises(Stopped, match=SPENT):
        limited()


def test_lifted_budget_does_nothing(stops: Stops) -> None:
    stops.limit(0.1)
    stops.limit(None)
    time.sleep(0.2)
    assert not stops.spent


def test_deferred_stop_calls_the_handler_then_raises(stops: Stops, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    with stops.deferred(reasons.append):
        send(signal.SIGTERM)
        send(signal.SIGTERM)  # one request that arrives twice
        assert reasons == ["SIGTERM"]
        monkeypatch.setattr(stopping, "AGAIN", 0.0)
        with pytest.raises(Stopped, match="SIGTERM"):
            send(signal.SIGINT)


def test_clean_up_is_not_interrupted_by_a_further_sigterm(stops: Stops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "AGAIN", 0.0)
    with pytest.raises(Stopped, match="SIGHUP"):
        send(signal.SIGHUP)
    send(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGHUP"):
        send(signal.SIGINT)


def test_swallowed_stop_is_raised_at_the_next_check(stops: Stops) -> None:
    with contextlib.suppress(BaseException):
        send(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        stops.check()


def test_handlers_that_a_library_replaced_come_back(stops: Stops) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    stops.hold()
    with pytest.raises(Stopped, match="SIGTERM"):
        send(signal.SIGTERM)


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as active:
            send(signal.SIGHUP)
            assert not active.reason
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


WRITER = """
import logging, sys, warnings
from lungtune.core import streams
from lungtune.core.io import log_stderr
from rich.console import Console
streams.keep_going()
console, logger = Console(force_terminal=True), logging.getLogger("x")
sys.stdin.readline()
for number in range(2000):
    print("line", number)
    print("line", number, file=sys.stderr)
    log_stderr("line")
    console.print("[bold]line[/bold]")
    logger.warning("line")
    warnings.warn(f"line {number}")
    sys.stdout.flush()
open(sys.argv[1], "w").write("to the end")
"""


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_output_to_a_closed_pipe_is_dropped(tmp_path, closed: str) -> None:  # type: ignore[no-untyped-def]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "done")], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdin is not None
    for name in ("stdout", "stderr"):
        if closed in (name, "both"):
            getattr(process, name).close()
    process.stdin.write("\n")
    process.stdin.close()
    rest = {name: getattr(process, name) for name in ("stdout", "stderr") if not getattr(process, name).closed}
    text = {}
    for name, stream in rest.items():
        with stream:
            text[name] = stream.read()
    assert process.wait(60) == 0
    assert (tmp_path / "done").read_text() == "to the end"
    assert all("line 1999" in each for each in text.values())


def test_output_to_a_full_disk_is_dropped(tmp_path) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-c", WRITER, str(tmp_path / "done")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, input="\n", text=True, stdout=full, stderr=full, timeout=60, check=False)
    assert done.returncode == 0
    assert (tmp_path / "done").read_text() == "to the end"
