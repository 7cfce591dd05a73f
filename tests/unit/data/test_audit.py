"""Audit: blocking problems and warnings."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from lungtune.data.audit import Audit
from lungtune.data.dataset import inspect
from lungtune.data.report import show


@pytest.fixture
def population(write):
    """Write `per` pictures of each class into each part, all different."""

    def write_all(parts: dict[str, int], classes: tuple[str, ...] = ("a", "b"), suffix: str = ".png") -> None:
        seed = 0
        for part, per in parts.items():
            for label in classes:
                for i in range(per):
                    seed += 1
                    write(Path(part, label, f"{i:03}{suffix}"), seed)

    return write_all


def test_clean_data_have_no_problems(population, tmp_path):
    population({"train": 160, "test": 20})
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert audit.problems == ()
    assert audit.warnings == ()
    assert audit.official == {"train": {"a": 160, "b": 160}, "test": {"a": 20, "b": 20}}
    assert audit.parts["validation"] == {"cases": 64, "groups": 64, "classes": {"a": 32, "b": 32}}
    assert audit.constant["test"] == {"class": "a", "accuracy": 0.5, "macro_f1": 0.3333}
    assert audit.patients == 0


def test_round_trip_through_json(population, tmp_path):
    population({"train": 10, "test": 3})
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert Audit.from_dict(json.loads(json.dumps(audit.to_dict()))) == audit


def test_unreadable_files_stop(population, tmp_path):
    population({"train": 20, "test": 5})
    for i in range(12):
        (tmp_path / f"data/train/a/{i:03}.png").write_bytes(b"" if i else b"text")
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    text = next(p for p in audit.problems if "readable" in p)
    assert "12 of 50 are not" in text
    assert "000.png is neither PNG nor JPEG" in text
    assert "009.png is empty (0 bytes) and 2 more" in text
    assert len(audit.unreadable) == 12


def test_the_same_bytes_in_train_and_test_stop(population, tmp_path):
    population({"train": 20, "test": 5})
    data = tmp_path / "data"
    (data / "test/a/000.png").write_bytes((data / "train/a/007.png").read_bytes())
    audit = inspect(f"folder:{data}").audit
    text = next(p for p in audit.problems if "in two parts" in p)
    assert "test/a/000.png (test) and train/a/007.png (" in text
    assert ",leaks=drop" in text
    assert audit.exact["across"] == 1
    dropped = inspect(f"folder:{data},leaks=drop")
    assert not [p for p in dropped.audit.problems if "in two parts" in p]
    assert dict(dropped.manifest.excluded) == {
        "train/a/007.png": "same patient or picture as the test case test/a/000.png"
    }
    redrawn = inspect(f"folder:{data},official=no").audit
    assert redrawn.problems == ()


def test_the_same_patient_in_train_and_test_stops(population, tmp_path):
    population({"train": 20, "test": 5})
    audit = inspect(f"folder:{tmp_path / 'data'},patient=^(\\d+)").audit
    text = next(p for p in audit.problems if "in two parts" in p)
    assert "but 5 are" in text


def test_a_copy_across_official_parts_is_a_warning_and_left_out(population, tmp_path):
    population({"train": 20, "test": 5})
    data = tmp_path / "data"
    Image.open(data / "train/a/007.png").save(data / "test/a/000.jpg", quality=90)
    audit = inspect(f"folder:{data}").audit
    assert not [p for p in audit.problems if "in two parts" in p]
    assert "train/a/007.png" in audit.excluded
    assert audit.near["across"] == 1
    assert any("1 pairs of nearly equal pictures lie in different official parts" in w for w in audit.warnings)
    assert any("Left out of all parts, 1 in number" in w for w in audit.warnings)


def test_the_duplicate_of_a_copy_in_test_does_not_train(population, tmp_path):
    population({"train": 40, "test": 5})
    data = tmp_path / "data"
    (data / "train/a/900.png").write_bytes((data / "train/a/007.png").read_bytes())
    Image.open(data / "train/a/007.png").save(data / "test/a/000.jpg", quality=90)
    inspection = inspect(f"folder:{data}")
    assert inspection.audit.problems == ()
    assert set(inspection.audit.excluded) == {"train/a/007.png", "train/a/900.png"}
    assert not {"train/a/007.png", "train/a/900.png"} & {
        c for p in inspection.manifest.parts.values() for c in p.case_id
    }


def test_gaps_in_a_table_are_warnings(population, tmp_path):
    population({"": 40})
    table = tmp_path / "data/cases.csv"

    def warnings(skip_patient: int, skip_split: int) -> list[str]:
        rows = [f"{label}/{i:03}.png,{label},{label}{i},{'test' if i < 8 else 'train'}" for label in "ab"
                for i in range(40)]  # fmt: skip
        cells = [row.split(",") for row in rows]
        for i, row in enumerate(cells):
            row[2] = row[2] if i >= skip_patient else ""
            row[3] = row[3] if i >= skip_split else ""
        table.write_text("\n".join(["path,label,patient_id,split", *map(",".join, cells)]))
        return [w for w in inspect(f"table:{table}").audit.warnings if "while others do" in w]

    assert warnings(0, 0) == []
    assert warnings(80, 80) == []
    assert warnings(3, 1) == [
        "3 of 80 images have no patient id while others do; each of these counts as a patient of its own.",
        "1 of 80 images has no official part while others do; these count as training images.",
    ]


def test_the_report_counts_the_patients_in_the_parts(population, tmp_path):
    population({"": 40})
    data = tmp_path / "data"
    (data / "a/900.png").write_bytes((data / "a/007.png").read_bytes())
    console = Console(record=True, file=io.StringIO(), width=200, soft_wrap=True)
    show(inspect(f"folder:{data},patient=([^/]+)\\.png$").audit, "0" * 64, console)
    assert (
        "41 patient ids; 40 patients in the parts (left-out ones do not count, those who share a picture count as one)"
        in console.export_text()
    )


def test_conflicting_labels_are_left_out(population, tmp_path):
    population({"": 30})
    data = tmp_path / "data"
    (data / "b/000.png").write_bytes((data / "a/000.png").read_bytes())
    audit = inspect(f"folder:{data}").audit
    assert audit.problems == ()
    assert set(audit.excluded) == {"a/000.png", "b/000.png"}
    assert any("the same picture is labelled a and b" in w for w in audit.warnings)


def test_an_empty_class_stops(population, tmp_path):
    population({"": 30})
    (tmp_path / "data/c").mkdir()
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert "Every class must have images, but c has none." in audit.problems


def test_a_single_class_stops(write, tmp_path):
    for part in ("train", "test"):
        for i in range(12):
            write(f"{part}/a/{i}.png")
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert "There must be at least 2 classes, but there is only 'a'." in audit.problems


def test_fewer_patients_than_folds_stop(population, write, tmp_path):
    population({"train": 30, "test": 5})
    for i in range(3):
        write(f"train/c/{i}.png")
        write(f"test/c/{i}.png")
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert any("at least as many images as there are folds (5) outside the test part, but c has 3" in p
               for p in audit.problems)  # fmt: skip


def test_a_part_without_a_class_stops(population, write, tmp_path):
    population({"train": 30, "test": 5})
    for i in range(20):
        write(f"train/c/{i}.png")
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert "The test part must have cases of every class, but it has none of c." in audit.problems


def test_few_validation_cases_are_a_warning(population, tmp_path):
    population({"train": 40, "test": 5})
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert audit.problems == ()
    assert any("should have 30 validation cases, but a has 8, b has 8" in w for w in audit.warnings)


def test_the_shortcut_alarm_is_a_warning(write, tmp_path):
    for i in range(65):
        part = "test" if i >= 60 else "train"
        write(f"{part}/a/{i}.png", i)
        write(f"{part}/b/{i}.jpeg", 100 + i)
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert audit.problems == ()
    assert [s.feature for s in audit.shortcuts if s.alarm] == ["file type"]
    assert any(w.startswith("Shortcut: file type alone predicts the class") for w in audit.warnings)
