"""Patients in file names: recognition, the option `patient=`, the refusal of a search."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lungtune import reopen
from lungtune.core.study import Study
from lungtune.data import report
from lungtune.data.dataset import inspect
from lungtune.data.sources import index_source, parse_source
from lungtune.data.sources._patients import patient_in, propose
from lungtune.errors import DataError
from lungtune.search import driver, preparation, study_data

GUESS = "No patients were given, but the names of 60 of 60 images look like those of 30 patients"


def proposed(names):
    """Return the option that is proposed for images of these paths, empty without a guess."""
    guess, _ = propose([(name, None, Path("/none") / name) for name in names])
    return guess.option if guess else ""


def groups(names, option):
    """Return the names of each patient of several, by the proposed expression."""
    import re

    found = {}
    for name in names:
        found.setdefault(patient_in(re.compile(option.removeprefix("patient=")).search(name)), []).append(name)
    return sorted(sorted(held) for patient, held in found.items() if patient and len(held) > 1)


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (["a/person12_bacteria_34.jpeg", "a/person12_virus_35.jpeg", "b/person1_x.jpeg"], [(0, 1)]),
        (["a/00012345_003.png", "b/00012345_004.png", "b/00012346_000.png"], [(0, 1)]),
        (["a/IM-0115-0001.jpeg", "a/IM-0115-0002.jpeg", "b/NORMAL2-IM-0115-0001.jpeg"], [(0, 1)]),
        (["a/BACTERIA-1008087-0001.jpeg", "a/BACTERIA-1008087-0002.jpeg", "b/VIRUS-1-0001.jpeg"], [(0, 1)]),
        (["a/patient_12_l.png", "a/patient_12_r.png", "b/patient_1_l.png"], [(0, 1)]),
        (["a/P001_1.png", "a/P001_2.png", "group1/P002_1.png"], [(0, 1)]),
        (["a/sub-01_ap.png", "b/sub-01_pa.png", "b/sub-02_pa.png"], [(0, 1)]),
        (["a/patient07/view1.jpg", "a/patient07/view2.jpg", "b/patient08/view1.jpg"], [(0, 1)]),
        (["a/patient00001/study1/v.jpg", "a/patient00001/study2/w.jpg", "b/patient00002/study1/v.jpg"], [(0, 1)]),
        ([f"a/{i:04}/{v}.png" for i in range(6) for v in "lr"], [(2 * i, 2 * i + 1) for i in range(6)]),
        (["a/covid_patient3_1.png", "a/covid_patient3_2.png", "b/x.png", "b/patient4_1.png"], [(0, 1)]),
    ],
)
def test_well_known_names_are_proposed(names, same):
    option = proposed(names)
    assert option.startswith("patient=")
    assert groups(names, option) == sorted(sorted(names[i] for i in rows) for rows in same)


@pytest.mark.parametrize(
    "names",
    [
        [f"a/p{i:03}.png" for i in range(9)],
        ["train/a/p001.png", "test/a/p001.png", "train/b/p001.png"],
        [f"COVID/COVID-{i}.png" for i in range(9)],
        [f"a/image_{i}.png" for i in range(9)],
        [f"a/CHNCXR_{i:04}_0.png" for i in range(9)],
        [f"a/view{i}/{i}.png" for i in range(9)],
        [f"a/fold{i}/{k}.png" for i in range(6) for k in "ab"],
        [f"a/{name}/{i}.png" for name in ("frontal", "lateral") for i in range(9)],
        [f"a/person1_{i}.png" for i in range(30)],
        ["a/person (1).png", "a/person (2).png"],
    ],
)
def test_names_that_join_no_images_are_not_proposed(names):
    assert proposed(names) == ""


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (r"folder:/d,patient=(\d{1,3})", {"patient": r"(\d{1,3})"}),
        (r"folder:/d,patient=(\d{1,3})_[a,b],official=no", {"patient": r"(\d{1,3})_[a,b]", "official": "no"}),
        (r"folder:/d,official=no,patient=(a,b=\d+)", {"official": "no", "patient": r"(a,b=\d+)"}),
        (r"folder:/d,patient=^(?:x,y)?(p[,0-9]+),masks=/m,n", {"patient": r"^(?:x,y)?(p[,0-9]+)", "masks": "/m,n"}),
        (r"folder:/d,patient=(,ignore=a|b", {"patient": r"(,ignore=a|b"}),
    ],
)
def test_expressions_with_commas_are_parsed(spec, options):
    name, path, parsed = parse_source(spec)
    assert (name, path, parsed) == ("folder", Path("/d"), options)


def test_expression_sees_the_relative_path(write, tmp_path):
    for name in ("train/a/p1_x.png", "train/a/p1_y.png", "test/a/p1_x.png", "test/b/q_x.png"):
        write(name)
    data = tmp_path / "data"
    cases = index_source(f"folder:{data},patient=(train|test)/.*/(p\\d{{1,2}})")
    assert list(cases["patient_id"]) == ["test/p1", None, "train/p1", "train/p1"]
    assert cases.attrs["restarts"]
    inventory = cases.attrs["inventory"]
    assert inventory.patients.endswith("on the relative path: 3 of 4 images, 2 patients")
    (guess,) = inventory.guesses
    assert "does not match 1 of 4 images, such as test/b/q_x.png" in guess.sentence
    assert not guess.stops
    cases = index_source(f"folder:{data},patient=^([pq]\\d*)_")
    assert list(cases["patient_id"]) == ["p1", "q", "p1", "p1"], "of file names, where no path matches"
    assert "on the file name" in cases.attrs["inventory"].patients
    assert not cases.attrs["restarts"]


def test_expression_that_matches_nothing_is_refused(write, tmp_path):
    write("a/1.png")
    write("b/1.png")
    with pytest.raises(DataError, match=r"'person\(\\\\d\+\)' matches none of 2, such as a/1\.png"):
        index_source(f"folder:{tmp_path / 'data'},patient=person(\\d+)")


@pytest.fixture
def named_by_patient(write, tmp_path):
    """60 images of 30 patients in two classes."""
    for i in range(60):
        write(f"{'ab'[i // 2 % 2]}/person{i // 2}_{i}.png", i)
    return f"folder:{tmp_path / 'data'}"


def test_search_is_refused_until_patients_are_given(named_by_patient, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(study_data, "inspect", None)  # nothing is read before
    options = driver.Options(space="clip_lora", profile="demo", data=named_by_patient)
    expected = rf"each image would count as .*--data '{named_by_patient},patient=\(person\\d\+\)', or with patient=none"
    with pytest.raises(DataError, match=expected):
        preparation.new(options, Console(quiet=True), lambda space: None)
    assert not Study.names()
    for answer in ("(person\\d+)", "none"):
        assert study_data.index(f"{named_by_patient},patient={answer}") is not None


def test_check_states_the_guess_once_and_exits_with_2(named_by_patient, capsys):
    assert report.check(named_by_patient) == 2
    shown = capsys.readouterr().out
    assert shown.count(f"{GUESS}: ") == 1
    assert r"Write patient=(person\d+), or patient=none" in shown
    assert "A search would stop here until an option answers" in shown
    assert report.check(f"{named_by_patient},patient=none") == 0
    assert "each image is a patient of its own (patient=none)" in capsys.readouterr().out
    assert report.check(f"{named_by_patient},patient=(person\\d+)") == 0


def test_retraining_states_the_guess(named_by_patient, capsys):
    split = inspect(named_by_patient).manifest.hash
    origin = SimpleNamespace(split_seed=0, split=split)
    reopen.inspect(SimpleNamespace(data=None), origin, named_by_patient, test=False)
    assert capsys.readouterr().err.count(f"note: {GUESS}: ") == 1


def test_phantoms_do_not_ask():
    audit = inspect("phantom,n=30,test=9,size=32").audit
    assert audit.inventory["guesses"] == []
    assert audit.unconfirmed == ()


def parted(write, copies=0):
    """Write 40 training and 12 test images of two each a person whose numbers begin at 0 in both parts."""
    for part, count, first in (("train", 40, 0), ("test", 12, 1000)):
        for i in range(count):
            path = write(f"{part}/{'ab'[i // 2 % 2]}/person{i // 2}_{i}.png", first + i)
            if part == "test" and i < copies:
                shutil.copy(str(path).replace("/test/", "/train/"), path)


def test_numbers_in_two_parts_are_taken_for_other_people(write, tmp_path):
    parted(write)
    source = f"folder:{tmp_path / 'data'}"
    (guess,) = inspect(source).audit.inventory["guesses"]
    assert guess["option"] == r"patient=(train|test)/.*?(person\d+)"
    assert "Numbers of the test part occur in the other parts too" in guess["sentence"]
    manifest = inspect(f"{source},{guess['option']}").manifest
    people = {part: set(entries.group) for part, entries in manifest.parts.items()}
    assert not people["train"] & people["validation"]
    assert len(manifest.parts["test"]) == 12
    assert len(manifest.parts["train"]) + len(manifest.parts["validation"]) == 40


def test_validation_shares_the_numbers_of_training(write, tmp_path):
    for part in ("train", "val", "test"):
        for name in ("person1_1", "person1_2", "person2_1"):
            write(f"{part}/a/{name}.png")
            write(f"{part}/b/{name.replace('person', 'person9')}.png")
    source = f"folder:{tmp_path / 'data'}"
    (guess,) = index_source(source).attrs["inventory"].guesses
    cases = index_source(f"{source},{guess.option}").set_index("case_id")
    assert cases.loc["val/a/person1_1.png", "patient_id"] == cases.loc["train/a/person1_2.png", "patient_id"]
    assert cases.loc["test/a/person1_1.png", "patient_id"] == "test/person1"


def test_equal_files_show_that_numbering_does_not_restart(write, tmp_path):
    parted(write, copies=1)
    (guess,) = index_source(f"folder:{tmp_path / 'data'}").attrs["inventory"].guesses
    assert guess.option == r"patient=(person\d+)"


def test_equal_pictures_show_that_numbering_does_not_restart(write, tmp_path):
    from PIL import Image

    parted(write)
    copy = tmp_path / "data/test/a/person0_0.png"
    Image.open(tmp_path / "data/train/a/person0_0.png").convert("RGB").save(copy)
    source = f"folder:{tmp_path / 'data'}"
    namespaced = index_source(source).attrs["inventory"].guesses[0].option
    assert namespaced == r"patient=(train|test)/.*?(person\d+)"
    (guess,) = (g for g in inspect(source).audit.inventory["guesses"] if g["about"] == "patients")
    assert guess["option"] == r"patient=(person\d+)"
    assert "numbering does not restart" in guess["sentence"]
    warnings = inspect(f"{source},{namespaced}").audit.warnings
    assert any("1 pairs of pictures of one number lie in the test part and another one" in text for text in warnings)
