"""Ledger of the test set."""

import json

import pytest

from lungtune.core.ledger import Ledger
from lungtune.errors import StudyError


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "study" / "ledger.jsonl", "id1", "mine")


def test_a_locked_set_may_be_opened(ledger):
    with ledger.hold("r1"):
        pass
    assert ledger.entries() == []


def test_a_result_locks_it_for_everyone(ledger, tmp_path):
    with ledger.hold("r1"):
        ledger.opened("r1", "a.yaml")
        ledger.result("r1", "a.yaml", {"macro_f1": 0.7123, "nll": 1.0}, tmp_path)
    for recipe in ("r1", "r2"):
        with pytest.raises(StudyError, match=r"opened on 20\d\d-.* by a\.yaml: macro_f1 0\.712, nll 1\.000 \(report: "):
            ledger.check(recipe)


def test_opening_without_result_is_reserved_for_its_recipe(ledger):
    with ledger.hold("r1"):
        ledger.opened("r1", "a.yaml")
    ledger.check("r1")
    with pytest.raises(StudyError, match=r"ended without a result; only that recipe, unchanged"):
        ledger.check("r2")


def test_other_studies_do_not_count_but_further_ledgers_do(ledger, tmp_path):
    stranger = Ledger(ledger.path, "id2", "other")
    with stranger.hold("r1"):
        stranger.opened("r1", "b.yaml")
    ledger.check("r9")
    beside = Ledger(tmp_path / "ledger.jsonl", "id1", "mine")
    with beside.hold("r1"):
        beside.opened("r1", "a.yaml")
    with pytest.raises(StudyError, match="ended without a result"):
        Ledger(ledger.path, "id1", "mine", also=[beside.path]).check("r9")


def test_torn_ledger_line_is_repaired(ledger):
    with ledger.hold("r1"):
        ledger.opened("r1", "a.yaml")
    with ledger.path.open("a") as file:
        file.write('{"event":"res')
    with ledger.hold("r1"):
        ledger.result("r1", "a.yaml", {}, ledger.path.parent)
    lines = ledger.path.read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["opened", "result"]


def test_only_one_process_at_a_time(ledger):
    other = Ledger(ledger.path, "id1", "mine").hold("r1")
    with ledger.hold("r1"), pytest.raises(StudyError, match=r"being opened by process \d+ on .* since"), other:
        pass


def test_a_ledger_that_cannot_be_written_keeps_the_set_locked(tmp_path):
    (tmp_path / "study").write_text("a file where a folder must be")
    with pytest.raises(StudyError, match="must be writable to open the test set"):
        Ledger(tmp_path / "study" / "ledger.jsonl", "id1", "mine").hold("r1").__enter__()
