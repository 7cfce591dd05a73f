"""Pretraining of a latent diffusion model after Stable Diffusion 2: first the autoencoder, then the U-Net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lungtune.pretrain.contrastive import read
from lungtune.pretrain.corpus import Corpus
from lungtune.pretrain.recipe import Recipe, descend, set_lr
from lungtune.pretrain.spelling import tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
"""Stable Diffusion 2's."""
_ENOUGH = 600  # pictures, for mean and variance of a channel


class Parts(nn.Module):
    """The networks of a latent diffusion model, and the tokenizer of its prompts."""

    vae: Any
    unet: Any
    text: Any
    words: Any

    def __init__(self, vae: Any, unet: Any, text: Any, words: CLIPTokenizer) -> None:
        super().__init__()
        self.vae, self.unet, self.text, self.words = vae, unet, text, words

    def tokens(self, texts: list[str]) -> Tensor:
        """Return ``(N, L)`` token numbers."""
        return self.words(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def meaning(self, tokens: Tensor) -> Tensor:
        """Return unit vectors ``(N, D)`` of captions ``(N, L)``, at their end token."""
        ends = (tokens == self.words.eos_token_id).int().argmax(1)
        hidden = self.text(tokens).last_hidden_state
        return functional.normalize(hidden[torch.arange(len(hidden)), ends], dim=-1)


@dataclass(frozen=True)
class Diffusion(Recipe):
    """A latent diffusion model trained to draw pictures from captions.

    Attributes:
        vae, unet, text: settings of diffusers' ``AutoencoderKL`` and ``UNet2DConditionModel`` and of transformers'
            ``CLIPTextModel``.
        vae_passes: passes over the images in which the autoencoder learns alone; then it is frozen.
        vae_batch, vae_lr: images a step and peak learning rate of these passes.
        text_steps, text_lr, temperature: of the text encoder, which learns alone that paraphrases mean the same
            (``contrastive.read``) and is frozen then, as Stable Diffusion's: trained with the U-Net, it forgets that
            captions differ before the U-Net can use them.
        edges: weight of neighbouring-pixel differences relative to the pixels' own loss; preserves fine lines.
        kl: weight of the latents' divergence from a standard normal, in nats a number.
        drop: share of captions that are left out, for guidance (Ho and Salimans 2022).
        average: decay of the moving average of the U-Net that is kept.
        size: width of the images, px.
    """

    vae: Mapping[str, Any]
    unet: Mapping[str, Any]
    text: Mapping[str, Any]
    vae_passes: int
    vae_batch: int
    vae_lr: float
    text_steps: int
    text_lr: float
    temperature: float
    edges: float
    kl: float
    drop: float
    average: float
    size: int = 64

    def steps(self, images: int) -> int:
        """See ``Recipe.steps``."""
        return self.vae_passes * (images // self.vae_batch) + self.text_steps + super().steps(images)

    def train(self, data: Corpus, seed: int, tick: Callable[[float], None] = lambda loss: None) -> Parts:
        """See ``Recipe.train``."""
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        parts = self.parts(data.captions).to(memory_format=torch.channels_last)
        for loss in _copy(parts.vae, self, data.images, generator):
            tick(loss)
        parts.vae.requires_grad_(False)
        _standardise(parts.vae, data.images[:_ENOUGH])
        mean, std = _encode(parts.vae, data.images)
        how: dict[str, Any] = {"steps": self.text_steps, "lr": self.text_lr, "batch": 128}
        how["temperature"] = self.temperature
        reading, tokens = list(parts.text.parameters()), parts.tokens(data.captions)
        for loss in read(parts.meaning, reading, tokens, data.meaning, generator, **how):
            tick(loss)
        parts.text.requires_grad_(False)
        kept = torch.optim.swa_utils.AveragedModel(
            parts.unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(self.average)
        )
        for loss in _draw(parts, self, mean, std, tokens, generator):
            kept.update_parameters(parts.unet)
            tick(loss)
        parts.unet = kept.module
        return parts.eval()

    def parts(self, captions: list[str]) -> Parts:
        """Return the networks as they are drawn, with a tokenizer of the captions' words."""
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        words = tokenizer(captions, self.text["max_position_embeddings"])
        vae: Any = AutoencoderKL(sample_size=self.size, **self.vae)
        for name, weight in vae.named_parameters():
            if name.endswith(("conv2.weight", "to_out.0.weight")):
                nn.init.zeros_(weight)  # residual blocks start as identity: sharp copies come sooner
        shrunk = 2 ** (len(self.vae["block_out_channels"]) - 1)
        unet = UNet2DConditionModel(
            sample_size=self.size // shrunk,
            in_channels=self.vae["latent_channels"],
            out_channels=self.vae["latent_channels"],
            cross_attention_dim=self.text["hidden_size"],
            **self.unet,
        )
        marks = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
        config = CLIPTextConfig(vocab_size=len(words), pad_token_id=words.pad_token_id, **marks, **self.text)
        text: Any = CLIPTextModel(config)
        # Words that no caption holds, such as the names of diseases, stay as they are drawn: wide enough to differ.
        nn.init.normal_(text.get_input_embeddings().weight, std=0.3)
        return Parts(vae, unet, text, words)

    def write(self, model: nn.Module, folder: Path) -> None:
        """See ``Recipe.write``: the folder of a Stable Diffusion, as diffusers saves it."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        parts: Any = copy.deepcopy(model).half()
        pipeline: Any = StableDiffusionPipeline(
            vae=parts.vae,
            text_encoder=parts.text,
            tokenizer=parts.words,
            unet=parts.unet,
            scheduler=DDIMScheduler(**SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder)
        parts.words.backend_tokenizer.model.save(str(folder / "tokenizer"))  # vocab.json, merges.txt: older readers


def _pixels(images: Tensor) -> Tensor:
    """Return the autoencoder's input for uint8 images ``(N, S, S)``: ``(N, 3, S, S)`` in [-1, 1]."""
    return (images[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror and re-expose uint8 images ``(N, S, S)``; nothing is interpolated, so that fine lines stay."""
    mirrored = torch.rand(len(images), 2, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored[:, 0], images.flip(1), images)
    grey = torch.where(mirrored[:, 1], images.flip(2), images).float() / 255
    light = torch.rand(len(images), 3, 1, 1, generator=generator) - 0.5
    grey = grey.clamp(1e-3, 1) ** torch.exp(0.8 * light[:, 0])
    return (((grey - 0.5) * (1 + 0.4 * light[:, 1]) + 0.5 + 0.2 * light[:, 2]).clamp(0, 1) * 255).round().byte()


def _copy(vae: Any, recipe: Diffusion, images: Tensor, generator: torch.Generator) -> Iterator[float]:
    """Train the autoencoder to reconstruct images ``(N, S, S)``; yield the loss of every step."""
    weights = list(vae.parameters())
    optimiser = torch.optim.AdamW(weights, lr=recipe.vae_lr, betas=(0.9, 0.98), weight_decay=0.0)
    passes = replace(recipe, passes=recipe.vae_passes, batch=recipe.vae_batch)
    steps = recipe.vae_passes * (len(images) // recipe.vae_batch)
    for step, rows in enumerate(passes.batches(len(images), generator)):
        set_lr(optimiser, recipe.vae_lr, step, steps)
        seen = _pixels(_vary(images[rows], generator))
        latent = vae.encode(seen).latent_dist
        drawn = vae.decode(latent.sample(generator)).sample
        loss = functional.l1_loss(drawn, seen)
        for axis in (2, 3):
            loss = loss + recipe.edges * functional.l1_loss(drawn.diff(dim=axis), seen.diff(dim=axis))
        loss = loss + recipe.kl * latent.kl().mean() / latent.mean[0].numel()
        descend(loss, optimiser, weights)
        yield float(loss.detach())


@torch.no_grad()
def _encode(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations ``(N, C, S', S')`` of the latents of images ``(N, S, S)``."""
    latents = [vae.encode(_pixels(part)).latent_dist for part in images.split(128)]
    return torch.cat([latent.mean for latent in latents]), torch.cat([latent.std for latent in latents])


@torch.no_grad()
def _standardise(vae: Any, images: Tensor) -> None:
    """Scale every latent channel of images ``(N, S, S)`` to mean 0 and variance 1; decoded images stay the same.

    One factor for all, as in Stable Diffusion, would leave channels of a sixth of another's width under noise.
    """
    mean, std = _encode(vae, images)
    centre = mean.mean((0, 2, 3))
    width = (mean.var((0, 2, 3)) + std.square().mean((0, 2, 3))).sqrt()
    inward, outward = vae.quant_conv, vae.post_quant_conv  # both 1 x 1; the former gives means, then log-variances
    outward.bias += outward.weight[:, :, 0, 0] @ centre
    outward.weight *= width[:, None, None]
    channels = len(centre)
    inward.weight[:channels] /= width[:, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - centre) / width
    inward.bias[channels:] -= 2 * width.log()
    vae.register_to_config(scaling_factor=1.0)


def _draw(
    parts: Parts, recipe: Diffusion, mean: Tensor, std: Tensor, tokens: Tensor, generator: torch.Generator
) -> Iterator[float]:
    """Train the U-Net as a caption-conditioned denoiser; yield the loss of every step.

    Args:
        parts: its U-Net trains.
        recipe: the settings.
        mean, std: of the scaled latents ``(N, C, S', S')``.
        tokens: of the captions ``(N, L)``.
        generator: the only source of randomness.
    """
    from diffusers import DDIMScheduler

    noise_of: Any = DDIMScheduler(**SCHEDULE)
    times = noise_of.config.num_train_timesteps
    with torch.no_grad():
        nothing = parts.text(parts.tokens([""])).last_hidden_state
        captions = torch.cat([parts.text(some).last_hidden_state for some in tokens.split(256)])
    weights = list(parts.unet.parameters())
    optimiser = recipe.optimiser(weights)
    steps = recipe.passes * (len(mean) // recipe.batch)
    for step, rows in enumerate(recipe.batches(len(mean), generator)):
        set_lr(optimiser, recipe.lr, step, steps)
        noise, more = torch.randn(2, *mean[rows].shape, generator=generator)
        latents = mean[rows] + std[rows] * more
        spread = (torch.arange(len(rows)) + torch.rand(len(rows), generator=generator)) / len(rows)
        t = (spread * times).long()  # every batch sees all levels of noise
        left_out = torch.rand(len(rows), 1, 1, generator=generator) < recipe.drop
        context = torch.where(left_out, nothing, captions[rows])
        noisy = noise_of.add_noise(latents, noise, t).contiguous(memory_format=torch.channels_last)
        loss = functional.mse_loss(parts.unet(noisy, t, context).sample, noise_of.get_velocity(latents, noise, t))
        descend(loss, optimiser, weights)
        yield float(loss.detach())
