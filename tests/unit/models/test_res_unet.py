"""The Res-UNet's two tasks: effect of lambda2, of cases without masks, and of weight 0."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lungtune.core.resource import Fidelity
from lungtune.core.trial import Report
from lungtune.data.dataset import Part
from lungtune.engine.pack import Pack
from lungtune.engine.session import Session
from lungtune.engine.trial_state import VERIFY_STEPS
from lungtune.errors import SpaceError, TrialError
from lungtune.stats import bootstrap
from lungtune.tasks import stored_predictions
from lungtune.trainables.res_unet import FAMILY
from lungtune.trainables.res_unet import ResUnetParams as Params

CLASSES = ("normal", "ill")
COUNT = 12
HORIZON = 20 * COUNT


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return FAMILY.miniature(tmp_path_factory.mktemp("res_unet"))


def data(known: np.ndarray | None = None) -> Part:
    """Noise with a darker rectangle, which is the mask; class 1 is brighter."""
    random = np.random.default_rng(0)
    labels = np.arange(COUNT) % 2
    images = (random.integers(0, 60, (COUNT, 32, 32)) + 100 + 60 * labels[:, None, None]).astype(np.uint8)
    pixels = np.zeros_like(images)
    for i in range(COUNT):
        pixels[i, 6 + i % 5 : 26, 4 + i % 3 : 20] = 255
    images[pixels > 0] //= 3
    known = np.ones(COUNT, bool) if known is None else known
    masks = pixels * known[:, None, None].astype(np.uint8)
    return Part.of(image=images[:, None], label=labels, mask=masks[:, None], known={"mask": known})


def pack(base: Any, part: Part) -> Pack:
    return Pack(FAMILY, base, CLASSES, part, capacity=2)


def params(**changes: Any) -> Params:
    return replace(Params(lr=1e-2, batch_size=6, augmentation=0, warmup=0.0), **changes)


def test_mask_is_learnt_and_scored(base: Any) -> None:
    torch.set_num_threads(1)
    part = data()
    built = pack(base, part)
    slot = built.join(params(lambda2=1.0), seed=1, horizon=HORIZON)
    before = built.predict(part)[slot]
    for _ in range(40):
        built.step()
    after = built.predict(part)[slot]
    assert before["dice"].mean() < 0.7
    assert after["dice"].mean() > 0.9
    torch.testing.assert_close(after["iou"], after["dice"] / (2 - after["dice"]), atol=1e-4, rtol=1e-3)
    assert (after["probabilities"].argmax(1).numpy() == part["label"]).mean() > 0.9


def test_lambda2_zero_trains_no_decoder_and_predicts_nan(base: Any) -> None:
    part = data()
    built = pack(base, part)
    without = built.join(params(lambda2=0.0), seed=1, horizon=HORIZON)
    with_it = built.join(params(lambda2=0.5), seed=1, horizon=HORIZON)
    built.step()
    assert not any(name.startswith(("net.decoder", "net.mask")) for name in built.adapter(without))
    assert any(name.startswith("net.decoder") for name in built.adapter(with_it))
    judged = built.predict(part)
    assert judged[without]["dice"].isnan().all()
    assert judged[with_it]["dice"].isfinite().all()


def test_cases_without_a_mask_count_for_the_class_only(base: Any) -> None:
    """With no mask known, any lambda2 trains as the cross-entropy alone does."""
    part = data(np.zeros(COUNT, bool))
    losses = []
    for weight in (0.0, 5.0):
        built = pack(base, part)
        slot = built.join(params(lambda2=weight), seed=1, horizon=HORIZON)
        losses.append([built.step()[slot] for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert built.predict(part)[slot]["dice"].isnan().all()


def test_lambda2_weighs_one_minus_dice(base: Any) -> None:
    """First losses of equal trials are linear in lambda2, as all else in them is the same."""
    part = data()
    first = {}
    for weight in (0.5, 1.0, 2.0):
        built = pack(base, part)
        slot = built.join(params(lambda2=weight), seed=1, horizon=HORIZON)
        first[weight] = built.step()[slot]
    slope = (first[1.0] - first[0.5]) / 0.5
    assert first[2.0] - first[1.0] == pytest.approx(slope, rel=1e-4)
    assert 0 < slope < 1


def test_gradient_check_waits_for_the_first_mask(base: Any) -> None:
    """With few masked cases the decoder's gradient may come late; without any in a batch it cannot come."""
    known = np.zeros(COUNT, bool)
    built = pack(base, data(known))
    slot = built.join(params(lambda2=0.5), seed=1, horizon=HORIZON)
    for _ in range(VERIFY_STEPS + 2):
        built.step()
        assert not built.verify(slot)
    built = pack(base, data())
    slot = built.join(params(lambda2=0.5), seed=1, horizon=HORIZON)
    for _ in range(VERIFY_STEPS):
        built.step()
        built.verify(slot)
    assert built.verify(slot)


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "convnext_atto"])
def test_an_encoder_without_five_maps_is_reported(model: str) -> None:
    with pytest.raises(SpaceError, match=f"model must have five maps, as a ResNet has, but got {model}"):
        FAMILY.backbone(FAMILY.Base(model=model, weights="random", image_size=32), CLASSES)


def test_unmasked_synthetic_images_train_the_class_only(base: Any) -> None:
    """Values in the place of their missing masks, black or not, change nothing; real images keep their masks."""
    part = data()
    synthetic = Part.of(image=part["image"][::-1].copy(), label=part["label"][::-1].copy())
    built = Pack(FAMILY, base, CLASSES, part, synthetic=synthetic, capacity=1)
    index = torch.tensor([len(part) + 2, 1, len(part)])
    slot = built.join(params(synthetic_ratio=1.0, augmentation=0, synthetic_use="pretrain"), seed=1, horizon=64)
    batch = built._train.take([index], [built._trials[slot]])
    seen, known = batch["mask"], batch.has("mask")
    assert known.tolist() == [False, True, False]
    assert not seen[[0, 2]].any()
    assert torch.equal(seen[1, 0], torch.from_numpy(part["mask"][1, 0]).float() / 255)
    alone = built._trials[slot].verify_steps
    built.step()
    assert built._trials[slot].verify_steps == alone  # no mask was seen yet: the decoder waits for one
    while built.samples(slot) < 48:
        assert np.isfinite(built.step()[slot])
    assert built._trials[slot].verify_steps < alone
    assert built.verify(slot) or built._trials[slot].verify_steps > 0


def reported(base: Any, metric: str, folder: Path, spoil: bool = False, **changes: Any) -> Report | TrialError:
    """Return a trial's first report in a search by ``metric``; ``spoil`` makes its decoder NaN before."""
    part = data()
    whole = SimpleNamespace(classes=CLASSES, train=part, validation=part, synthetic=None)
    session = Session(FAMILY, base, whole, Fidelity(max=1, min=0.5, eta=2), FAMILY.objective(metric))  # type: ignore[arg-type]
    session.start(0, asdict(params(**changes)), 1, folder)
    if spoil:
        stack = session.pack._stack
        entry = next(entry for name, entry in stack.entries.items() if name.startswith("net.mask."))
        stack.values[:, entry.start : entry.start + entry.size] = torch.nan
    ((_, report),) = session.until_report()
    return report


def test_trial_without_a_decoder_scores_zero_dice(base: Any, tmp_path: Path) -> None:
    """Dice objective; the checkpoint scores the same."""
    report = reported(base, "dice", tmp_path, lambda2=0.0)
    assert isinstance(report, Report)
    assert (report.metrics["dice"], report.metrics["iou"]) == (0.0, 0.0)
    kept = stored_predictions.load(Path(report.checkpoint or ""), FAMILY.task("segmentation"))
    assert kept is not None
    assert bootstrap.plain(kept.scorer(np.arange(len(kept))), "dice") == 0.0


def test_no_decoder_reports_no_dice(base: Any, tmp_path: Path) -> None:
    report = reported(base, "macro_f1", tmp_path, lambda2=0.0)
    assert isinstance(report, Report)
    assert "macro_f1" in report.metrics
    assert "dice" not in report.metrics


@pytest.mark.parametrize("metric", ["dice", "macro_f1"])
def test_a_decoder_that_became_nan_fails_the_trial(base: Any, tmp_path: Path, metric: str) -> None:
    """Neither the loss, which ignores NaN masks, nor the class shows it."""
    failed = reported(base, metric, tmp_path, spoil=True, lambda2=0.5)
    assert isinstance(failed, TrialError)
    assert failed.reason == "nan"
    assert "weights became infinite or NaN" in str(failed)
