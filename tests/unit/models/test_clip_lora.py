"""CLIP as a classifier: embeddings equal open_clip's, weights are located or refused clearly, clean export."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from lungtune.engine.pack import Pack
from lungtune.errors import SpaceError, WeightsError
from lungtune.layers.layout import BatchLayout, LayoutContext
from lungtune.models import clip_model, clip_weights
from lungtune.models.clip_prompts import STYLES, prompts
from lungtune.trainables.clip_lora import FAMILY
from lungtune.trainables.clip_lora import ClipLoraBase as Base
from lungtune.trainables.clip_lora import ClipLoraParams as Params
from toy import part, predicted

CLASSES = ("normal", "bacterial", "viral")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return FAMILY.miniature(tmp_path_factory.mktemp("mini"))


def normalised(clip: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    mean, std = clip_model.pixel_statistics(clip)
    return (images.expand(-1, 3, -1, -1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("shipped", [False, True])
def test_embeddings_are_open_clips(base: Base, shipped: bool) -> None:
    if shipped:
        base = Base(weights="tiny_clip", image_size=64)
        if not clip_weights.shipped("tiny_clip").is_dir():
            pytest.skip("the shipped base is not there")
    clip, model = clip_model.plain_clip(base), FAMILY.backbone(base, CLASSES)
    images = torch.rand(3, 1, base.image_size, base.image_size)
    tokenize = clip_model.tokenizer(base)
    slots = BatchLayout((0,), (3,), (Params(),), (), LayoutContext(), training=False, whole=1)
    with torch.no_grad():
        expected = clip.encode_image(normalised(clip, images), normalize=True)
        torch.testing.assert_close(model.image_features(images), expected, atol=1e-5, rtol=0)
        for style in STYLES:
            means = [clip.encode_text(tokenize(c), normalize=True).mean(0) for c in prompts(CLASSES, style)]
            wanted = F.normalize(torch.stack(means), dim=1)
            torch.testing.assert_close(model.fixed_matrix(style, slots), wanted, atol=1e-5, rtol=0)
        logits = FAMILY.outputs(model, FAMILY.features(model, {"image": images}), slots)["logits"]
        matrix = model.fixed_matrix(Params().prompt_style, slots)
    torch.testing.assert_close(logits, clip.logit_scale.exp() * expected @ matrix.T, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("tower", "what"), [("visual", "an image"), ("", "a caption")])
def test_a_tower_that_runs_differently_is_refused(base: Base, tower: str, what: str) -> None:
    """A scale behind the last block stands for any layer that running block by block would leave out."""
    clip = clip_model.plain_clip(base)
    transformer = clip.get_submodule(f"{tower}.transformer".strip("."))
    transformer.register_forward_hook(lambda _module, _inputs, out: out + torch.arange(out.shape[-1]))
    with pytest.raises(WeightsError, match=f"the embedding of {what} differs from the original's by"):
        clip_model.ClipClassifier(clip, CLASSES, clip_model.tokenizer(base))


def test_every_style_has_captions_for_any_class() -> None:
    classes = ["NORMAL", "Lung_Opacity", "Viral Pneumonia", "TURBERCULOSIS", "COVID19", "left-sidedEffusion"]
    for style in STYLES:
        captions = prompts(classes, style)
        assert len({tuple(c) for c in captions}) == len(classes)
        assert len({len(c) for c in captions}) == 1
        assert "left sided effusion" in captions[-1][0]
    assert prompts(["bacterial", "virus"], "paper") == [
        ["An image of bacteria chest X-ray"],
        ["An image of virus chest X-ray"],
    ]
    assert prompts(["Viral_Pneumonia"], "plain") == prompts(["viral"], "plain")
    with pytest.raises(ValueError, match="prompt style must be one of paper, plain, clinical, ensemble"):
        prompts(CLASSES, "poem")


@pytest.mark.parametrize("tower", ["image", "text", "both"])
@pytest.mark.parametrize("targets", ["qv", "qkv", "qkvo", "mlp", "qkv_mlp", "qkvo_mlp"])
def test_targets_match_exactly_the_chosen_layers(base: Base, tower: str, targets: str) -> None:
    images, labels = np.zeros((4, 16, 16), np.uint8), np.array([0, 1, 2, 0])
    pack = Pack(FAMILY, base, CLASSES, part(images, labels), capacity=1)
    for blocks, count in (("all", 2), ("upper_half", 1)):
        slot = pack.join(Params(lora_tower=tower, lora_targets=targets, lora_blocks=blocks), seed=0, horizon=10)
        names = {name.rpartition(".lora_")[0] for name in pack.adapter(slot)}
        towers = 2 if tower == "both" else 1
        projections = {"qv": 2, "qkv": 3, "qkvo": 4, "mlp": 2, "qkv_mlp": 5, "qkvo_mlp": 6}[targets]
        assert len(names) == towers * projections * count
        pack.leave(slot)


def test_frozen_lower_blocks_build_no_graph(base: Base) -> None:
    images, labels = np.zeros((4, 16, 16), np.uint8), np.array([0, 1, 2, 0])
    pack = Pack(FAMILY, base, CLASSES, part(images, labels), capacity=1)
    pack.join(Params(lora_blocks="upper_half", lora_targets="qv"), seed=0, horizon=10)
    seen = []
    blocks = pack.model.visual.transformer.resblocks
    blocks[0].register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    blocks[1].mlp.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    pack.step()
    assert seen == [False, True]


def test_frozen_blocks_are_not_run_again_and_not_adapted(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))
    images, labels = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8), np.arange(12) % 3
    losses, runs = [], []
    for views in (0, 1):
        pack = Pack(FAMILY, replace(base, frozen_blocks=1, views=views), CLASSES, part(images, labels), capacity=1)
        ran = []
        pack.model.visual.transformer.resblocks[0].register_forward_hook(lambda _m, _i, out, ran=ran: ran.append(1))
        slot = pack.join(Params(augmentation=0, lr=1e-2), seed=0, horizon=100)
        assert {name.split(".resblocks.")[1][0] for name in pack.adapter(slot)} == {"1"}
        losses.append([pack.step()[slot] for _ in range(9)])
        runs.append(len(ran))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert runs == [9, 2]  # one image for the shape, then all


def test_invalid_frozen_blocks_are_refused(base: Base) -> None:
    with pytest.raises(SpaceError, match="frozen_blocks < 2 must hold, the blocks of this image tower, but got 2"):
        FAMILY.backbone(replace(base, frozen_blocks=2), CLASSES)
    with pytest.raises(SpaceError, match="frozen_blocks >= 1 must hold where views are kept"):
        FAMILY.check(replace(base, views=2))


def test_text_tower_runs_once_for_trials_without_text_adapters(base: Base) -> None:
    images, labels = np.zeros((4, 16, 16), np.uint8), np.array([0, 1, 2, 0])
    pack = Pack(FAMILY, base, CLASSES, part(images, labels), capacity=2)
    rows = []
    pack.model.text.ln_final.register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    pack.join(Params(), seed=0, horizon=10)
    pack.step(), pack.step()
    assert rows == [3]
    pack.join(Params(lora_tower="both", prompt_style="ensemble"), seed=0, horizon=10)
    pack.step()
    assert rows == [3, 15]
    pack.predict(part(images, labels), batch_size=1)
    assert rows == [3, 15, 15]  # once for the whole evaluation


def test_partial_batches_train_the_text_tower_like_a_whole(base: Base) -> None:
    """If memory holds part of a batch only, captions are encoded again for each part."""
    images, labels = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8), np.arange(12) % 3
    losses = []
    for rows in (None, 4):
        pack = Pack(FAMILY, base, CLASSES, part(images, labels), capacity=1)
        slot = pack.join(Params(lora_tower="both", batch_size=6, lora_dropout=0.0), seed=1, horizon=100)
        pack.rows = rows
        losses.append([pack.step()[slot] for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_mixed_precision_stays_near_float32(base: Base) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8), np.arange(12) % 3
    results = []
    for precision in ("fp32", "bf16"):
        pack = Pack(FAMILY, base, CLASSES, part(images, labels), capacity=2, precision=precision)
        for tower in ("image", "both"):
            pack.join(Params(lora_tower=tower, lr=1e-3, lora_targets="qkvo_mlp"), seed=0, horizon=100)
        losses = [list(pack.step().values()) for _ in range(4)]
        results.append((torch.tensor(losses), predicted(pack, 1, part(images, labels)), pack.adapter(1)))
    (full, scores, adapter), (mixed, scores_16, adapter_16) = results
    torch.testing.assert_close(mixed, full, atol=0.1, rtol=0.05)
    torch.testing.assert_close(scores_16, scores, atol=0.05, rtol=0)
    assert adapter.keys() == adapter_16.keys()
    assert {t.dtype for t in adapter_16.values()} == {torch.float32}


# --- weights ------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("offline")
def test_missing_weights_fail_fast_with_a_remedy() -> None:
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"'openai' of ViT-L-14 .* `hf download timm/vit_large.*weights=DIR"):
        FAMILY.check(Base())
    assert time.monotonic() - start < 5.0


def test_unreachable_hub_times_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(_request: object, *, timeout: float) -> None:
        assert timeout <= 5.0
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    caplog.set_level(logging.INFO)
    with pytest.raises(WeightsError, match="neither in a cache of this machine nor to be had from the hub"):
        FAMILY.check(Base())
    assert "no route to host" in caplog.text


def test_cached_weights_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def cached(repo: str, name: str) -> str | None:
        return str(tmp_path / "w.bin") if (repo, name) == (wanted, "open_clip_pytorch_model.bin") else None

    wanted = "timm/vit_large_patch14_clip_224.openai"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    result = clip_weights.find("ViT-L-14", "openai", fetch=False)
    assert result.file == tmp_path / "w.bin"
    assert result.settings["force_quick_gelu"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "ViT-L-14x"}, "'ViT-L-14x' is not one of open_clip's. Did you mean 'ViT-L-14'"),
        ({"weights": "opnai"}, "'opnai' are not known for ViT-L-14. Did you mean 'openai'"),
        ({"weights": "./nowhere"}, "./nowhere does not exist"),
    ],
)
def test_misspelt_bases_are_reported(change: dict[str, str], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        FAMILY.check(replace(Base(), **change))


def test_broken_folders_are_reported(tmp_path: Path, base: Base) -> None:
    with pytest.raises(WeightsError, match=r"must hold open_clip's open_clip_config.json"):
        FAMILY.check(Base(weights=str(tmp_path)))
    config = Path(base.weights) / "open_clip_config.json"
    (tmp_path / config.name).write_text(config.read_text())
    with pytest.raises(WeightsError, match="must hold a weights file"):
        FAMILY.check(Base(weights=str(tmp_path)))


def test_image_size_that_is_no_multiple_of_the_patch_is_refused(base: Base) -> None:
    with pytest.raises(SpaceError, match="image_size must be a multiple of the patch"):
        FAMILY.backbone(replace(base, image_size=20), CLASSES)


def test_another_image_size_resizes_the_position_table(base: Base) -> None:
    model = FAMILY.backbone(replace(base, image_size=32), CLASSES)
    assert model.image_features(torch.rand(2, 1, 32, 32)).shape == (2, 16)


# --- export -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pack, Params]:
    """A trial trained for a few steps on both towers, and its export."""
    params = Params(
        lr=1e-2, lora_rank=4, lora_targets="qkvo_mlp", lora_tower="both", prompt_style="ensemble", lora_dropout=0.2
    )
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
    pack = Pack(FAMILY, base, CLASSES, part(images, np.arange(12) % 3), capacity=1)
    pack.join(params, seed=0, horizon=1000)
    for _ in range(5):
        pack.step()
    folder = tmp_path_factory.mktemp("export")
    FAMILY.export(base, params, CLASSES, pack.adapter(0), folder)
    return folder, pack, params


def test_export_loads_with_plain_open_clip_and_embeds_the_same(exported: tuple[Path, Pack, Params]) -> None:
    folder, pack, _ = exported
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    images = torch.rand(4, 1, 16, 16)
    slots = pack._layout([0], [4], training=False)
    with torch.no_grad(), pack._backbone.using(slots):
        ours = pack.model.image_features(images)
        plain = FAMILY.backbone(Base(weights=str(folder), image_size=16), CLASSES).image_features(images)
    with torch.no_grad():
        theirs = clip.encode_image(normalised(clip, images), normalize=True)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs, plain, atol=1e-4, rtol=0)


def test_exported_adapter_carries_rank_alpha_and_layers(exported: tuple[Path, Pack, Params]) -> None:
    from safetensors.torch import load_file

    folder, pack, _params = exported
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 32.0, 0.2)
    assert len(config["target_modules"]) == 2 * 6 * 2
    adapter = load_file(folder / "adapter.safetensors")
    assert all(torch.equal(adapter[k], v) for k, v in pack.adapter(0).items())


@pytest.mark.slow
def test_lazy_open_clip_keeps_timm_and_compiler_usable() -> None:
    code = """
import sys
from lungtune.models.clip_parts import open_clip
left_out = [name for name in ("timm", "transformers", "torch._dynamo") if name in sys.modules]
assert not left_out, left_out
import timm, torch, transformers
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
assert timm.list_models("vit_base_patch16_224") and transformers.__version__
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
