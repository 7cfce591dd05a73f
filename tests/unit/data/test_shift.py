"""Shift between official parts: alarm where test differs, silence on random splits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lungtune.data import shift
from lungtune.data.audit import Audit
from lungtune.data.dataset import inspect
from lungtune.data.fingerprint import SIDE


def data(seed: int, train: int = 120, test: int = 40, classes: int = 2, patients: bool = False):
    """Return cases, facts and groups of a random split; images of a patient are alike."""
    rng = np.random.default_rng(seed)
    n = train + test
    groups = np.arange(n) // 3 if patients else np.arange(n)
    labels = rng.choice([f"c{k}" for k in range(classes)], n)
    part = rng.permutation(np.where(np.arange(groups.max() + 1) < test // (3 if patients else 1), "test", "train"))
    cases = pd.DataFrame({"split": part[groups], "label": labels}, dtype=object)
    style = rng.normal(size=(groups.max() + 1, SIDE * SIDE))
    pictures = 128 + 40 * style[groups] + 2 * rng.normal(size=(n, SIDE * SIDE))
    facts = pd.DataFrame(
        {
            "width": (1000 + 50 * style[groups, 0]).astype(int),
            "height": (900 + 50 * style[groups, 1]).astype(int),
            "type": "PNG",
            "mode": np.where(style[groups, 2] > 0, "L", "RGB"),
            "fingerprint": [_bytes(row) for row in pictures],
            "preview": [_bytes(row[:256]) for row in pictures],
            "error": None,
        },
        dtype=object,
    )
    return cases, facts, groups.astype(str)


def _bytes(values: np.ndarray) -> bytes:
    return values.clip(0, 255).astype(np.uint8).tobytes()


def said(cases, facts, groups) -> list[str]:
    return shift.warnings(shift.measure(cases, facts, groups), cases, groups)


@pytest.mark.parametrize("patients", [False, True])
@pytest.mark.parametrize(("train", "test"), [(60, 30), (120, 40), (300, 150)])
def test_random_splits_raise_no_alarm(train, test, patients):
    alarms = sum(bool(said(*data(seed, train, test, 1 + seed % 3, patients))) for seed in range(15))
    assert alarms == 0


@pytest.mark.parametrize("part", ["test", "validation"])
def test_another_scanner_in_one_class_of_one_part_is_an_alarm(part):
    cases, facts, groups = data(0, 240, 120)
    cases["split"] = cases["split"].replace("test", part)
    other = ((cases["split"] == part) & (cases["label"] == "c1")).to_numpy()
    facts.loc[other, "height"] = facts.loc[other, "height"] - 150
    (sentence,) = said(cases, facts, groups)
    assert sentence.startswith(f"The official {part} part differs from training: its 'c1' images are recognised")
    assert "most by aspect ratio (medians" in sentence or "most by height (medians" in sentence
    assert "',official=no'" in sentence
    assert [each.label for each in shift.measure(cases, facts, groups) if each.alarm] == ["c1"]


def test_another_look_of_the_thumbnails_is_an_alarm():
    cases, facts, groups = data(1, 240, 120, classes=1)
    for row in np.flatnonzero(cases["split"] == "test"):
        values = np.frombuffer(facts["fingerprint"][row], np.uint8).astype(int).reshape(SIDE, SIDE)
        values[:12, :12] += 50
        facts.at[row, "fingerprint"] = _bytes(values)
    (sentence,) = said(cases, facts, groups)
    assert "by files and thumbnails alone. Scores on it" in sentence


def test_other_shares_of_the_classes_are_a_warning():
    cases, facts, groups = data(2, 300, 150)
    test = (cases["split"] == "test").to_numpy()
    cases.loc[test, "label"] = np.where(np.arange(test.sum()) % 5 == 0, "c0", "c1")
    (sentence,) = said(cases, facts, groups)
    assert "The official test part has other shares of the classes than training: 'c" in sentence
    assert "of training and " in sentence


def test_no_official_parts_or_few_patients_are_not_measured():
    cases, facts, groups = data(3)
    assert shift.measure(cases.assign(split=None), facts, groups) == []
    few = np.where(cases["split"] == "test", np.arange(len(cases)) % 9, 100 + np.arange(len(cases))).astype(str)
    assert shift.measure(cases, facts, few) == []


def test_the_audit_states_a_shift_and_official_no_ends_it(write, tmp_path):
    for i in range(120):
        part = "test" if i % 3 == 0 else "train"
        write(f"{part}/{'ab'[i % 2]}/{i}.png", i, width=56 if part == "test" else 40)
    audit = inspect(f"folder:{tmp_path / 'data'}").audit
    assert any(w.startswith("The official test part differs from training") for w in audit.warnings)
    assert Audit.from_dict(audit.to_dict()) == audit
    redrawn = inspect(f"folder:{tmp_path / 'data'},official=no").audit
    assert not any("differs from training" in w for w in redrawn.warnings)
