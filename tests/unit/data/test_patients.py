"""Patient ids that name nobody, nouns for known and unknown patients, and where sentences use them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lungtune.core.fields import IMAGE, LABEL
from lungtune.core.trial import Objective
from lungtune.data import patients, report
from lungtune.data.cases import label_name
from lungtune.data.dataset import inspect, load
from lungtune.report import retrain_report
from lungtune.stats import leaderboard
from lungtune.tasks.classification.predictions import Probabilities


@pytest.mark.parametrize(
    "name", ["nan", "None", "UNKNOWN", "n/a", "N.A.", "-", "--", "?", "", "anonymous", "De-identified"]
)
def test_placeholders_name_nobody(name):
    assert patients.nobody(name)


@pytest.mark.parametrize("name", ["0", "7", "p1", "nancy", "unknown12", "anonymous-3", "NA12878"])
def test_other_ids_name_somebody(name):
    assert not patients.nobody(name)


@pytest.mark.parametrize(
    ("known", "cases", "kind", "noun"),
    [
        (5, 5, "image", "patients"),
        (0, 5, "image", "images"),
        (0, 5, "volume", "volumes"),
        (3, 5, "image", "patients or images"),
        (0, 0, "image", "patients"),
    ],
)
def test_unit_follows_what_is_known(known, cases, kind, noun):
    assert patients.unit(known, cases, kind) == noun


def test_counts_in_words():
    assert patients.counted(60, 31, "patients") == "60 images of 31 patients"
    assert patients.counted(60, 60, "images") == "60 images"
    assert patients.counted(60, 58, "images") == "60 images, 58 of them different"
    assert patients.single("patients or images") == "patient or image"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("COVID-19", "covid_19"),
        (" Lung  Opacity ", "lung_opacity"),
        ("non - small", "non_small"),
        ("a--b", "a_b"),
        ("a_-_b", "a___b"),
        ("TB-", "tb-"),
        ("TB", "tb"),
        ("-1", "-1"),
    ],
)
def test_label_names_keep_signs_at_their_ends(name, label):
    assert label_name(name) == label


@pytest.fixture
def source(write, tmp_path):
    """A folder of 80 images, patients by the option only."""
    for i in range(80):
        write(f"{'ab'[i % 2]}/p{i // 2}_{i}.png", i)
    return f"folder:{tmp_path / 'data'}"


def test_unknown_patients_are_images_everywhere(source, capsys):
    inspection = inspect(source)
    assert inspection.manifest.patients == 0
    assert inspection.audit.unit == inspection.manifest.unit == "images"
    assert dataclasses.replace(inspection.manifest, patients=None).unit == "images"
    part = load(inspection, [IMAGE, LABEL], 8).validation
    assert part.unit == part.select([0]).unit == "images"
    report.check(source)
    text = capsys.readouterr().out
    assert "patients unknown: parts and scores are over images" in text
    assert "80 patients" not in text


def test_known_patients_are_patients(source):
    manifest = inspect(source + r",patient=(p\d+)_").manifest
    assert manifest.patients == 80
    assert manifest.unit == dataclasses.replace(manifest, patients=None).unit == "patients"


def test_sentences_of_reports_use_the_unit():
    part = {
        "cases": 60,
        "patients": 60,
        "unit": "images",
        "metrics": {},
        "collapsed": "",
        "measures": {},
        "baselines": {},
    }
    assert "60 cases. In brackets: 95 % bootstrap intervals over images." in retrain_report.section_markdown("X", part)
    del part["unit"]
    assert "over patients" in retrain_report.section_markdown("X", part)


def test_leaderboard_speaks_of_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    kept = [Probabilities(labels, rng.dirichlet([1, 1], 60)) for _ in range(2)]
    each = [leaderboard.Contender(name, table) for name, table in zip("ab", kept, strict=True)]
    board = leaderboard.board(
        np.arange(60), each, Objective("macro_f1"), {c.name: [c.predictions] for c in each}, draws=50, unit="images"
    )
    assert "over images like these" in board["claims"]
    assert board["sentence"].endswith("on new images.")
