"""Ledger of the test set."""

import json
from pathlib import Path

import pytest

from lungtune.core import journal
from lungtune.core.ledger import Asker, Ledger, question
from lungtune.core.locked_part import SAMPLE, LockedPart
from lungtune.errors import StudyError


def part(first, last, label="a"):
    return LockedPart.of([(f"{n * 7919 % 100003:05x}" + "0" * 35, label) for n in range(first, last)])


def make(folder, study="id1", name="mine", question="", **more):
    asker = Asker(study, name, question)
    more.setdefault("part", part(0, 100))
    return Ledger(folder / "study" / "ledger.jsonl", asker, folder / "openings.jsonl", **more)


@pytest.fixture
def ledger(tmp_path):
    return make(tmp_path)


def events(path):
    return [(entry["event"], entry["recipe"]) for entry in journal.read(path)]


def test_a_locked_set_may_be_opened(ledger):
    with ledger.hold("r1"):
        pass
    assert ledger.openings() == []


def test_a_result_locks_it_for_everyone(ledger, tmp_path):
    with ledger.hold("r1"):
        assert ledger.opened("r1", "a.yaml").sentence() == "opening 1 of this test part"
        ledger.result("r1", "a.yaml", {"macro_f1": 0.7123, "nll": 1.0}, tmp_path)
    for recipe in ("r1", "r2"):
        with pytest.raises(StudyError, match=r"opened on 20\d\d-.* by a\.yaml: macro_f1 0\.712, nll 1\.000 \(report: "):
            ledger.check(recipe)
    with pytest.raises(StudyError, match=r"opening 1 of this test part, by \S+ on \S+\)\. It opens once"):
        ledger.check("r1")


def test_opening_without_result_is_reserved_for_its_recipe(ledger):
    with ledger.hold("r1"):
        ledger.opened("r1", "a.yaml")
    ledger.check("r1")
    with pytest.raises(StudyError, match=r"ended without a result; only that recipe, unchanged"):
        ledger.check("r2")
    assert ledger.opened("r1", "a.yaml").number == 1
    ledger.result("r1", "a.yaml", {}, ledger.path)
    assert len(ledger.openings()) == 1
    assert events(ledger.path) == events(ledger.home) == [("opened", "r1"), ("opened", "r1"), ("result", "r1")]


def test_another_study_is_numbered_and_told_of_the_first(ledger, tmp_path):
    ledger.opened("r1", "a.yaml")
    ledger.result("r1", "a.yaml", {}, tmp_path)
    second = make(tmp_path / "b", "id2", "other", also=[ledger.home])
    opening = second.opened("r2", "b.yaml")
    assert opening.number == 2
    assert opening.sentence().startswith("opening 2 of this test part; before: opening 1 on 20")
    assert opening.sentence().endswith("(study mine, a.yaml)")
    third = make(tmp_path / "c", "id3", also=[second.home, ledger.home]).opened("r3", "c.yaml")
    assert [each["number"] for each in third.to_dict()["before"]] == [1, 2]
    assert third.to_dict()["part"] == part(0, 100).key
    unlike = make(tmp_path / "d", "id4", also=[second.home, ledger.home], part=part(100, 200))
    assert unlike.opened("r4", "d.yaml").number == 1


@pytest.mark.parametrize("lost", ["study", "home", "copy"])
def test_any_one_file_keeps_the_lock(tmp_path, lost):
    copy = tmp_path / "data" / ".x"
    book = make(tmp_path, copies=[copy])
    book.opened("r1", "a.yaml")
    book.result("r1", "a.yaml", {}, tmp_path)
    kept = {"study": book.path, "home": book.home, "copy": copy}
    for name, path in kept.items():
        if name != lost:
            path.unlink()
    with pytest.raises(StudyError, match="It opens once"):
        book.check("r2")


def test_copy_of_a_study_with_another_id_is_the_same_question(ledger, tmp_path):
    first = {"event": "study", "id": "x", "name": "a", "seed": 1, "time": 1.5}
    asked = question(first)
    assert asked == question(first | {"id": "y", "name": "b"}) != question(first | {"time": 1.6})
    make(tmp_path, "x", "a", asked).opened("r1", "a.yaml")
    with pytest.raises(StudyError, match=r"study 'a' was opened on .*which ended without a result"):
        make(tmp_path, "y", "b", asked).check("r2")
    with pytest.raises(StudyError, match="study 'a' was opened on"):
        make(tmp_path, "x", "renamed").check("r2")


def test_the_very_recipe_opens_once_whatever_its_study(ledger, tmp_path):
    ledger.opened("r1", "a.yaml")
    ledger.result("r1", "a.yaml", {}, tmp_path)
    with pytest.raises(StudyError, match="study 'mine' was opened on"):
        make(tmp_path, "edited").check("r1")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (part(0, 100), True),
        (part(0, 100, label="b"), True),
        (part(50, 150), True),
        (part(51, 151), False),
        (part(0, 10), True),
        (part(90, 3000), False),
        (LockedPart.of([]), False),
    ],
)
def test_parts_that_share_half_of_their_images_are_the_same(other, same):
    assert part(0, 100).same(other) is other.same(part(0, 100)) is same


@pytest.mark.parametrize(("first", "last", "same"), [(0, 20000, True), (8000, 28000, True), (12000, 32000, False)])
def test_parts_larger_than_their_sample_are_compared(first, last, same):
    whole = part(0, 20000)
    assert len(whole.sample) == SAMPLE
    assert whole.same(part(first, last)) is same
    assert LockedPart.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def old(path, study="id1", recipe="r1", result=True):
    """Write the lines of version 0.1."""
    about = {"time": 5.0, "date": "2026-01-02 03:04:05", "study": study, "recipe": recipe, "file": "a.yaml"}
    lines = [{"event": "opened", **about, "pid": 1, "host": "h"}]
    lines += [{"event": "result", **about, "metrics": {"macro_f1": 0.5}, "report": "/r"}] if result else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def test_lines_of_0_1_count_for_their_study_and_its_test_part(tmp_path):
    old(tmp_path / "study" / "ledger.jsonl")
    with pytest.raises(StudyError, match=r"2026-01-02 03:04:05 by a.yaml: macro_f1 0.500 \(report: /r; opening 1"):
        make(tmp_path).check("r2")
    parts = {"id1": part(0, 100)}
    other = make(tmp_path / "b", "id2", also=[tmp_path / "study" / "ledger.jsonl"], part_of=parts.get)
    assert other.opened("r2", "b.yaml").number == 2


@pytest.mark.parametrize("which", ["path", "home", "copies", "also"])
@pytest.mark.parametrize(
    "damage",
    [
        b'{"event":"op\n{"event":"x"}\n',
        b'{"event":"opened","time":1}\n',
        b'{"event":"result","time":"x","study":"a","recipe":"r","file":"f","date":"d","report":"r"}\n',
        b"\0\0\0\0",
        b"\x80\x81\n",
        None,
    ],
)
def test_damaged_ledger_keeps_the_set_locked(tmp_path, which, damage):
    book = make(tmp_path, copies=[tmp_path / "copy"], also=[tmp_path / "also"])
    path = {"path": book.path, "home": book.home, "copies": tmp_path / "copy", "also": tmp_path / "also"}[which]
    path.parent.mkdir(exist_ok=True)
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    with pytest.raises(StudyError, match=rf"stays locked, because its ledger is damaged: .*{path.name}"):
        book.check("r1")
    with pytest.raises(StudyError, match="stays locked"), book.hold("r1"):
        pass


def test_torn_ledger_line_is_repaired(ledger):
    with ledger.hold("r1"):
        ledger.opened("r1", "a.yaml")
    with ledger.path.open("a") as file:
        file.write('{"event":"res')
    with ledger.hold("r1"):
        ledger.result("r1", "a.yaml", {}, ledger.path.parent)
    assert events(ledger.path) == [("opened", "r1"), ("result", "r1")]


def test_only_one_process_at_a_time(ledger):
    other = Ledger(ledger.path, ledger.asker).hold("r1")
    with ledger.hold("r1"), pytest.raises(StudyError, match=r"being opened by process \d+ on .* since"), other:
        pass


@pytest.mark.parametrize("blocked", ["study", "home"])
def test_a_ledger_that_cannot_be_written_keeps_the_set_locked(tmp_path, blocked):
    (tmp_path / blocked).write_text("a file where a folder must be")
    book = Ledger(tmp_path / "study" / "ledger.jsonl", Asker("id1", "mine"), tmp_path / "home" / "openings.jsonl")
    with (
        pytest.raises(StudyError, match=r"must be writable to open the test set|must be a file that can be read"),
        book.hold("r1"),
    ):
        book.opened("r1", "a.yaml")


def test_a_copy_that_cannot_be_written_is_left_out(tmp_path):
    book = make(tmp_path, copies=[Path("/proc/none/x")])
    assert book.opened("r1", "a.yaml").number == 1
    assert events(book.path) == events(book.home) == [("opened", "r1")]
