"""The journal keeps every written event, whatever happens to its tail."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtune.core.journal import Journal, read
from lungtune.core.trial import History, State
from lungtune.errors import StudyError


def test_events_come_back(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append("a", x=1, word="Lunge – 肺", bad=float("nan"))
    assert [(e["event"], e["x"], e["word"], e["bad"]) for e in read(tmp_path / "j.jsonl")] == [
        ("a", 1, "Lunge – 肺", "nan")
    ]


@given(cut=st.integers(1, 40))
def test_a_torn_tail_is_put_aside_and_the_rest_stays(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("j") / "j.jsonl"
    first = Journal(path)
    first.append("a", n=1)
    whole = path.stat().st_size
    first.append("b", n=2)
    first.close()
    size = path.stat().st_size
    os.truncate(path, max(whole, size - cut))
    torn = path.stat().st_size - whole
    kept = ["a", "b"] if cut == 1 else ["a"]  # a line that lacks only its newline is whole
    assert [e["event"] for e in read(path)] == kept
    again = Journal(path)
    assert again.healed == (0 if cut == 1 else torn)
    again.append("c", n=3)
    assert [e["event"] for e in read(path)] == [*kept, "c"]
    assert path.with_name("j.jsonl.torn").exists() == (again.healed > 0)


def test_a_damaged_line_in_the_middle_is_reported(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"event":"a"}\n{"event":\n{"event":"b"}\n')
    with pytest.raises(StudyError, match=r"j\.jsonl:2: every line must be a JSON object"):
        read(path)


def test_a_full_disk_leaves_whole_lines_only(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from lungtune.core.journal import Journal; from lungtune.errors import MachineError\n"
        "journal = Journal(Path(sys.argv[1])); journal.append('a')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: journal.append('b', filler='x' * 200)\n"
        "except MachineError as error: print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100
    assert signal.SIGXFSZ
    path = tmp_path / "j.jsonl"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "could not be written" in done.stdout
    assert [e["event"] for e in read(path)] == ["a"]
    assert path.read_bytes().endswith(b"\n")


def test_history_returns_the_best_report_not_the_last():
    events = [
        {"event": "study", "space": {"trials": 1, "objective": {"metric": "m", "mode": "max"}}},
        {"event": "trial", "trial": 0, "params": {}, "sampled": {}, "distributions": {}, "seed": 0, "origin": "start"},
    ]
    for fidelity, value in ((1, 0.4), (2, 0.9), (3, 0.6)):
        report = {"fidelity": fidelity, "samples": fidelity, "metrics": {"m": value}, "checkpoint": None, "time": 0}
        events.append({"event": "report", "trial": 0, **report})
    events.append({"event": "end", "trial": 0, "state": "COMPLETE"})
    history = History(json.loads(json.dumps(events)))
    best = history.trials[0].best(history.objective)
    assert (best.fidelity, history.trials[0].value(history.objective)) == (2, 0.9)
    assert history.trials[0].state is State.COMPLETE
