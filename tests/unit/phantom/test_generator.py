"""Phantom generator: deterministic, correct masks and captions, neither trivial nor leaking."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lungtune.data.phantom import CLASSES, Settings, defaults, draw_patient, draw_shot, generate, render
from lungtune.data.phantom.captions import FORBIDDEN

CHANCE = 1 / len(CLASSES)


def one(number, size=64, domain="B"):
    settings = defaults(domain)
    patient = draw_patient(0, domain, number, settings)
    return render(patient, draw_shot(patient, 0, settings), size=size, settings=settings)


def image(number):
    return one(number).image


@pytest.fixture(scope="module")
def phantoms():
    return list(generate(700, seed=3, domain="B", size=48))


def test_same_numbers_same_pixels_in_any_order():
    forward = [one(n) for n in range(6)]
    backward = [one(n) for n in reversed(range(6))][::-1]
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert (a.caption, a.patient_id, a.latent) == (b.caption, b.patient_id, b.latent)


def test_a_later_start_gives_the_same_patients():
    whole = {p.patient_id: p.image for p in generate(8, size=48)}
    for phantom in generate(3, size=48, first=5):
        assert phantom.patient_id in whole
    last = [p.image for p in generate(1, size=48, first=7)][-1]
    np.testing.assert_array_equal(last, whole["phantomB000007"])


def test_other_processes_draw_the_same_pixels():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(image, range(4)))
    np.testing.assert_array_equal(np.stack(there), np.stack([image(n) for n in range(4)]))


def test_seed_domain_and_patient_change_the_pixels():
    base = image(0)
    assert (image(1) != base).any()
    assert (one(0, domain="A").image != base).any()
    other = next(iter(generate(1, seed=1, size=64))).image
    assert (other != base).any()


@pytest.mark.parametrize("size", [32, 63, 128])
def test_shapes_and_range(size):
    phantom = one(2, size=size)
    assert phantom.image.shape == phantom.lung_mask.shape == phantom.lesion_mask.shape == (size, size)
    assert phantom.image.dtype == np.uint8
    assert phantom.image.std() > 25
    assert 0.08 < phantom.lung_mask.mean() < 0.5


def test_lungs_are_darker_than_the_heart(phantoms):
    for phantom in phantoms[:40]:
        between = ndimage.binary_dilation(phantom.lung_mask, iterations=1)
        rows = phantom.lung_mask.any(1)
        middle = np.zeros_like(between)
        middle[rows, 22:26] = True
        if phantom.latent["truth"] == 0:
            assert phantom.image[phantom.lung_mask].mean() < phantom.image[middle & ~between].mean()


def test_lesions_lie_in_the_lungs_and_only_in_the_sick(phantoms):
    seen = 0
    for phantom in phantoms:
        near = ndimage.binary_dilation(phantom.lung_mask, iterations=2)
        assert not (phantom.lesion_mask & ~near).any()
        assert phantom.latent["truth"] or not phantom.lesion_mask.any()
        seen += bool(phantom.latent["truth"] and phantom.lesion_mask.any())
    assert seen > 0.85 * sum(p.latent["truth"] > 0 for p in phantoms)


def test_captions_name_findings_and_never_classes(phantoms):
    for phantom in phantoms:
        words = phantom.caption.lower()
        assert not [f for f in FORBIDDEN if f in words]
        assert not [c for c in CLASSES if c.replace("_", " ") in words]
    assert len({p.caption for p in phantoms}) > 200


def test_class_counts_follow_the_prior():
    settings = defaults("B")
    truths = [draw_patient(0, "B", n, settings).truth for n in range(1000)]
    np.testing.assert_allclose(np.bincount(truths, minlength=6) / 1000, settings.prior, atol=0.01)


def test_a_patient_keeps_body_and_label_over_pictures():
    settings = replace(defaults("B"), label_noise=0.0)
    groups = {}
    for phantom in generate(60, size=48, settings=settings):
        groups.setdefault(phantom.patient_id, []).append(phantom)
    assert min(map(len, groups.values())) >= 1
    assert max(map(len, groups.values())) == 4
    for pictures in groups.values():
        assert len({(p.label, p.age, p.sex) for p in pictures}) == 1
        for a, b in pairwise(pictures):
            assert (a.image != b.image).any()


def test_label_noise_changes_that_share_of_labels():
    settings = replace(defaults("B"), label_noise=0.3)
    patients = [draw_patient(0, "B", n, settings) for n in range(600)]
    assert 0.24 < np.mean([p.truth != p.label for p in patients]) < 0.36


def _features(phantoms, *, black=False):
    images = np.stack([np.where(p.lung_mask & black, 0, p.image).astype(np.uint8) for p in phantoms])
    grey = np.stack([np.histogram(i, 16, (0, 255))[0] for i in images])
    grey = np.c_[grey, images.mean((1, 2)), images.std((1, 2))]
    small = np.stack([np.asarray(Image.fromarray(i).resize((16, 16), Image.BOX)).ravel() for i in images])
    return grey, small, np.array([p.label for p in phantoms])


def _scores(phantoms, **how):
    grey, small, y = _features(phantoms, **how)
    cut = next(i for i, p in enumerate(phantoms) if p.patient_id >= "phantomB000500")
    forest = RandomForestClassifier(100, min_samples_leaf=2, random_state=0)
    line = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    return [
        f1_score(y[cut:], model.fit(x[:cut], y[:cut]).predict(x[cut:]), average="macro")
        for model, x in ((forest, grey), (line, small))
    ]


def test_trivial_features_do_not_predict_the_class(phantoms):
    forest, line = _scores(phantoms)
    assert forest < 0.35
    assert line < 0.42


def test_pixels_outside_the_lungs_do_not_predict_the_class(phantoms):
    assert max(_scores(phantoms, black=True)) < CHANCE + 0.10


def test_site_shortcut_predicts_the_class():
    settings = replace(defaults("B"), site_shortcut=1.0, nuisance=0.0, label_noise=0.0)
    rows = {}
    for phantom in generate(30, size=96, settings=settings):
        rows.setdefault(phantom.label, set()).add(int(np.argmax((phantom.image[:, :8] > 225).any(1))))
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"contrast": 0.0}, "contrast > 0 must hold"),
        ({"label_noise": 1.5}, "0 <= label_noise <= 1 must hold"),
        ({"prior": (0.5, 0.5)}, "prior must be 6 probabilities"),
        ({"nuisance": -1.0}, "nuisance >= 0 must hold"),
    ],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Settings(**wrong)


def test_wrong_domain_and_size_are_reported():
    with pytest.raises(ValueError, match="domain must be 'A' or 'B'"):
        next(generate(1, domain="C"))
    with pytest.raises(ValueError, match="size >= 32 must hold"):
        next(generate(1, size=16))
