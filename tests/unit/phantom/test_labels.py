"""Phantoms with several findings a film: labels, captions, uncertain labels, and sets without labels as before."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lungtune.core.fields import UNCERTAIN
from lungtune.data import sources
from lungtune.data.cases import label_values, traits
from lungtune.data.phantom import Settings, draw_patient, generate
from lungtune.data.phantom.captions import FINDINGS
from lungtune.data.sources import phantom
from lungtune.errors import DataError

SMALL = "phantom,n=60,test=20,size=32,labels=yes"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))


def test_findings_occur_together_and_are_what_is_drawn():
    settings = Settings(cooccurrence=phantom.COOCCURRENCE)
    counts = Counter(len(draw_patient(0, "B", number, settings).several or ()) for number in range(400))
    assert 80 < counts[0] < 160
    assert sum(counts[k] for k in (2, 3, 4, 5)) > 100
    for film in generate(30, size=32, settings=settings):
        named = {finding["finding"] for finding in film.latent["findings"]}
        assert named <= set(FINDINGS)
        assert named or not film.lesion_mask.any()


def test_a_source_of_labels_has_no_class(cache):
    cases = sources.index_source(f"{SMALL},label_noise=0")
    assert cases["label"].isna().all()
    assert len(cases.attrs["label_names"]) == len(FINDINGS)
    assert traits(cases) == sources.traits(f"{SMALL},label_noise=0")
    values = label_values(cases)
    assert set(np.unique(values)) == {0.0, 1.0}
    assert (values.sum(axis=1) > 1).any()
    effusion = values[:, cases.attrs["label_names"].index("effusion")]
    told = ["effusion" in text or "fluid" in text for text in cases["text"]]
    denied = ["no effusion" in text for text in cases["text"]]
    assert all(t or not e for e, t in zip(effusion, told, strict=True))
    assert not any(e and d for e, d in zip(effusion, denied, strict=True))


def test_open_and_wrong_labels_are_of_the_training_part_alone():
    cases = sources.index_source(f"{SMALL},uncertain=0.3")
    plain = sources.index_source(f"{SMALL},label_noise=0")
    assert sources.traits(f"{SMALL},uncertain=0.3") == traits(cases)
    test = (cases["split"] == "test").to_numpy()
    values = np.array(list(cases["labels"]))
    assert 0.2 < np.mean(values[~test] == UNCERTAIN) < 0.4
    assert (values[test] == np.array(list(plain["labels"]))[test]).all()


def test_sets_of_classes_keep_their_folder_and_films():
    recipe = phantom.recipe({"n": "5", "test": "0", "size": "32"})
    assert phantom.ensure(recipe).name == "711db86b71bdb40d"
    patient = draw_patient(0, "B", 3, Settings())
    assert patient.several is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("labels=maybe", "labels must be yes or no"),
        ("uncertain=0.2", "uncertain needs labels=yes"),
        ("labels=yes,uncertain=1", "0 <= uncertain < 1 must hold"),
        ("labels=yes,ambiguity=0.1", "ambiguity is of sets with one class"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        sources.index_source(f"phantom,{options}")
