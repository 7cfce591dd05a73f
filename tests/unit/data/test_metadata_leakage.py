"""Metadata-leakage alarm: raised when file properties predict the class, silent otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lungtune.data.metadata_leakage import measure_leakage


def files(n: int, rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "type": rng.choice(["PNG", "JPEG"], n),
            "mode": rng.choice(["L", "RGB"], n),
            "width": rng.integers(800, 2000, n),
            "height": rng.integers(800, 2000, n),
            "depth": 0,
        }
    )


def alarms(labels: np.ndarray, facts: pd.DataFrame, groups: np.ndarray | None = None) -> dict[str, str]:
    names = groups if groups is not None else np.arange(len(labels))
    return {s.feature: s.example for s in measure_leakage(labels.astype(str), facts, names.astype(str)) if s.alarm}


@pytest.mark.parametrize("n", [60, 300, 3000])
@pytest.mark.parametrize("seed", range(5))
def test_clean_files_raise_no_alarm(n, seed):
    rng = np.random.default_rng(seed)
    assert alarms(rng.choice(["a", "b", "normal"], n), files(n, rng)) == {}


@pytest.mark.parametrize("n", [60, 300, 3000])
def test_file_type_that_predicts_the_class_raises_an_alarm(n):
    rng = np.random.default_rng(0)
    labels, facts = rng.choice(["a", "b"], n), files(n, rng)
    facts["type"] = np.where(labels == "a", "PNG", "JPEG")
    alarmed = alarms(labels, facts)
    assert set(alarmed) == {"file type"}
    assert "100% of a, 0% of the others" in alarmed["file type"] or "100% of b" in alarmed["file type"]


@pytest.mark.parametrize("feature", ["mode", "width", "aspect ratio"])
def test_every_other_property_can_raise_an_alarm(feature):
    rng = np.random.default_rng(0)
    labels, facts = rng.choice(["a", "b", "c"], 400), files(400, rng)
    if feature == "mode":
        facts["mode"] = np.where(labels == "a", "RGBA", "L")
    elif feature == "width":
        facts["width"] = np.where(labels == "a", 1024, facts["width"])
    else:
        facts["height"] = np.where(labels == "a", facts["width"], (facts["width"] * 0.7).astype(int))
    alarmed = alarms(labels, facts)
    assert feature in alarmed
    assert alarmed[feature]


def test_few_different_files_of_a_class_raise_no_alarm():
    rng = np.random.default_rng(0)
    labels, facts = rng.choice(["a", "b", "c"], 900), files(900, rng)
    facts["type"] = np.where((labels == "a") & (rng.random(900) < 0.1), "PNG", "JPEG")
    assert alarms(labels, facts) == {}


def test_many_images_of_few_patients_raise_no_alarm():
    rng = np.random.default_rng(0)
    groups = np.arange(1000) % 12
    labels = np.array(["a", "b"])[groups % 2]
    facts = files(12, rng).iloc[groups].reset_index(drop=True)
    assert alarms(labels, facts, groups) == {}


def test_equal_files_are_not_listed():
    facts = pd.DataFrame({"type": "PNG", "mode": "L", "width": 64, "height": 64, "depth": 0}, index=range(50))
    assert measure_leakage(["a", "b"] * 25, facts, [str(i) for i in range(50)]) == []


def test_too_few_cases_are_not_measured():
    rng = np.random.default_rng(0)
    assert measure_leakage(["a"] * 50, files(50, rng), [str(i) for i in range(50)]) == []
    assert measure_leakage(["a", "b"], files(2, rng), ["1", "2"]) == []
    assert measure_leakage(["a", "b"] * 10, files(20, rng), ["1"] * 20) == []


def test_leakage_measures_are_in_range():
    rng = np.random.default_rng(0)
    labels, facts = rng.choice(["a", "b", "c", "d"], 500), files(500, rng)
    facts["mode"] = np.where(labels == "a", "RGB", "L")
    for item in measure_leakage(labels, facts, np.arange(500).astype(str)):
        assert item.chance == 0.25
        assert 0.35 <= item.threshold < 0.5
        assert 0 <= item.cramers_v <= 1
        assert (item.cramers_v > 0.9) == (item.feature == "mode")
