"""The shipped diffusion model: small, loads with plain diffusers, follows captions, reproducible."""

import json
from dataclasses import replace

import pytest
import torch

from lungtune import pretrain
from lungtune.pretrain import spelling

FOLDER = pretrain.SHIPPED / "tiny_diffusion"
DISEASES = ["normal", "bacteria", "virus", "covid", "tuberculosis", "lung opacity", "pneumonia"]
FILES = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


def _files(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def tiny():
    """A recipe of a few steps, and its pictures."""
    recipe = replace(pretrain.RECIPES["tiny_diffusion"], patients=4, passes=1, vae_passes=1, batch=2, render_size=64)
    return recipe, recipe.corpus(0)


@pytest.fixture(scope="module")
def trained_parts(tiny):
    """Product of the recipe, and the losses of its steps."""
    recipe, data = tiny
    losses = []
    return recipe.train(data, 0, losses.append), losses


def _texts(pipe, prompts):
    ids = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return pipe.text_encoder(ids).last_hidden_state


def test_small_and_in_the_folders_of_a_stable_diffusion():
    assert _files(FOLDER) == FILES
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 8e6
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]


def test_every_part_loads_alone(pipe):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    unet = UNet2DConditionModel.from_pretrained(FOLDER, subfolder="unet")
    assert unet.config.use_linear_projection
    for own, part in (
        (unet, pipe.unet),
        (AutoencoderKL.from_pretrained(FOLDER, subfolder="vae"), pipe.vae),
        (CLIPTextModel.from_pretrained(FOLDER, subfolder="text_encoder"), pipe.text_encoder),
    ):
        assert all(torch.equal(a.float(), b) for a, b in zip(own.state_dict().values(), part.state_dict().values()))
    words = CLIPTokenizer.from_pretrained(FOLDER, subfolder="tokenizer")
    assert words("pleural effusion").input_ids == pipe.tokenizer("pleural effusion").input_ids
    assert DDIMScheduler.from_pretrained(FOLDER, subfolder="scheduler").config.prediction_type == "v_prediction"


def test_latents_have_unit_variance(pipe, tiny):
    pixels = (tiny[1].images[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1)
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert latents.shape[1:] == (pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2)
    assert float(latents.std()) == pytest.approx(1, abs=0.15)


def test_autoencoder_reconstructs_pictures(pipe, tiny):
    pixels = (tiny[1].images[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1)
    with torch.no_grad():
        back = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    assert float((back - pixels).abs().mean()) < 0.1 * float(pixels.std())


def test_prompts_that_differ_in_a_disease_differ(pipe):
    """As much as prompts that differ in a finding it was trained on: half as much at least."""
    diseases = _texts(pipe, [f"chest X-ray, {name}" for name in DISEASES])
    findings = _texts(pipe, [f"chest X-ray, {name}" for name in ("effusion", "cavity", "consolidation")])
    apart, known = (torch.pdist(texts.flatten(1)) for texts in (diseases, findings))
    assert apart.min() > 0.5 * known.mean()


def test_every_text_can_be_spelled(pipe):
    text = "zürich’s covid-19 = 100 % ∅ 肺"
    ids = pipe.tokenizer(text).input_ids
    assert pipe.tokenizer.unk_token_id not in ids[1:-1]
    assert pipe.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_words_of_captions_and_diseases_are_one_token_each(pipe, tiny):
    words = {word.strip(".,") for caption in tiny[1].captions for word in caption.split() if "-" not in word}
    for word in [*words, *" ".join(DISEASES).split()]:
        assert len(pipe.tokenizer(word).input_ids) == 3, word
    assert (
        max(len(pipe.tokenizer(caption).input_ids) for caption in tiny[1].captions) <= pipe.tokenizer.model_max_length
    )


def test_two_sampler_steps_draw_an_image(pipe):
    drawn = pipe(
        ["both lungs are clear", "covid"],
        num_inference_steps=2,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert drawn.shape == (2, 3, 64, 64)
    assert torch.isfinite(drawn).all()
    assert (drawn.std((1, 2, 3)) > 0.1).all()


def test_training_is_reproducible(tiny, trained_parts):
    recipe, data = tiny
    one, losses = trained_parts
    assert len(losses) == recipe.steps(len(data.images))
    for (name, a), b in zip(one.state_dict().items(), recipe.train(data, 0).state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_embeddings_of_unused_words_are_untrained(tiny, trained_parts):
    recipe, data = tiny
    torch.manual_seed(0)
    drawn, trained = (
        parts.text.get_input_embeddings().weight for parts in (recipe.parts(data.captions), trained_parts[0])
    )
    seen = trained_parts[0].tokens([*data.captions, ""]).unique()
    unseen = torch.ones(len(drawn), dtype=torch.bool).index_fill(0, seen, False)
    assert torch.equal(drawn[unseen], trained[unseen])
    assert not torch.equal(drawn[seen], trained[seen])


def test_what_is_saved_loads(tiny, trained_parts, tmp_path):
    from diffusers import StableDiffusionPipeline

    pretrain.save(trained_parts[0], tiny[0], tmp_path / "base")
    assert _files(tmp_path / "base") == FILES
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in (tmp_path / "base").rglob("*"))
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "base", dtype=torch.float32)
    for name, value in trained_parts[0].unet.state_dict().items():
        assert torch.allclose(loaded.unet.state_dict()[name], value, atol=1e-3, rtol=1e-3), name
    assert loaded.vae.config.scaling_factor == pytest.approx(trained_parts[0].vae.config.scaling_factor)


def test_a_base_appears_complete_or_not_at_all(tiny, trained_parts, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("diffusers.DDIMScheduler.save_pretrained", fails)
    with pytest.raises(OSError, match="disk full"):
        pretrain.save(trained_parts[0], tiny[0], tmp_path / "base")
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_follows_from_its_captions():
    captions = ["Left basal fluid.", "left basal band, no fluid"]
    one, two = spelling.tokenizer(captions, 77), spelling.tokenizer(captions[::-1] * 2, 77)
    assert one.get_vocab() == two.get_vocab()
    assert one.tokenize(captions[0]) == ["left</w>", "basal</w>", "fluid</w>", ".</w>"]


def test_merges_make_words_whole():
    assert list(spelling.merges(["aba", "ab"])) == [("a", "b"), ("a", "b</w>"), ("ab", "a</w>")]
