"""A latent-diffusion model in parts: images to latents, captions to context, noise to latents, latents to images.

Rombach et al. 2022 (arXiv 2112.10752); captions steer by classifier-free guidance (Ho and Salimans 2022, arXiv
2207.12598). All networks and samplers are diffusers'.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from lungtune.errors import WeightsError
from lungtune.layers.layout import BatchLayout
from lungtune.models import diffusion_weights as weights
from lungtune.models.clip_prompts import prompts

for _library in (diffusers, transformers):  # missing or wrong parts raise here, in one sentence
    _library.utils.logging.disable_progress_bar()
    _library.utils.logging.set_verbosity_error()

SAMPLERS = {"ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler"}
"""DDIM (Song et al. 2021, arXiv 2010.02502) and DPM-Solver++ of second order (Lu et al. 2022, arXiv 2211.01095), both
without noise on the way: an image is a function of the noise it starts from."""

SPACING = {"ddim": {"timestep_spacing": "trailing"}, "dpm++": {}}
"""Sampler settings in addition to the base's; DDIM's follow Lin et al. 2024 (arXiv 2305.08891)."""


class Diffusion(nn.Module):
    """The networks of a ``StableDiffusionPipeline``, with the tokens of all classes' captions.

    Args:
        folder: a complete model, as ``diffusion_weights.find`` returns it.
        classes: class names.
        styles: prompt styles whose captions are kept.

    Raises:
        WeightsError: weights are missing in a file or left over.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    kept: Tensor
    image_size: int

    def __init__(self, folder: Path, classes: Sequence[str], styles: Sequence[str]) -> None:
        super().__init__()
        self.unet = _loaded(diffusers.UNet2DConditionModel, folder, "unet")
        self.vae = _loaded(diffusers.AutoencoderKL, folder, "vae")
        self.text_encoder = _loaded(transformers.CLIPTextModel, folder, "text_encoder")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)
        scheduler = diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
        self.settings = weights.config(folder, "scheduler")
        self.velocity = scheduler.config.prediction_type == "v_prediction"
        self.register_buffer("kept", scheduler.alphas_cumprod.float(), persistent=False)
        self.shrink = 2 ** (len(self.vae.config.block_out_channels) - 1)
        longest = min(tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        for style in styles:
            listed = [*(each[0] for each in prompts(classes, style)), ""]
            cut = tokenizer(listed, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
            if len(cut.input_ids.unique(dim=0)) < len(listed):
                raise WeightsError(
                    f"{folder / 'tokenizer'} must separate the captions of all classes, but encodes two of these to "
                    f"the same tokens: {', '.join(map(repr, listed))}."
                )
            self.register_buffer(f"captions_{style}", cut.input_ids, persistent=False)
        self._fixed: dict[str, Tensor] = {}

    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance ``(N, 2 c, h, w)`` of the latents of images ``(N, 1, H, W)`` in [0, 1]."""
        return self.vae.encode(images.expand(-1, self.vae.config.in_channels, -1, -1) * 2 - 1).latent_dist.parameters

    def images(self, latents: Tensor) -> Tensor:
        """Return images ``(N, 1, H, W)`` in [0, 1] of latents ``(N, c, h, w)``."""
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1).mean(1, keepdim=True)

    def contexts(self, layout: BatchLayout, adapted: Sequence[int]) -> list[Tensor]:
        """Return the text encoder's output of every class's caption, and of no caption, per slot: ``(C + 1, L, D)``.

        Args:
            layout: of the batch.
            adapted: positions of the slots that adapt the text encoder.
        """
        styles = [p.prompt_style for p in layout.params]
        contexts: list[Any] = [None if i in adapted else self._plain(name, layout) for i, name in enumerate(styles)]
        if adapted:
            tokens = [self.get_buffer(f"captions_{styles[i]}") for i in adapted]
            with layout.over({i: len(t) for i, t in zip(adapted, tokens, strict=True)}) as texts:
                read = self.text_encoder(torch.cat(tokens)).last_hidden_state
            for i, rows in zip(adapted, texts.rows, strict=True):
                contexts[i] = read[rows]
        return contexts

    @torch.no_grad()
    def _plain(self, style: str, layout: BatchLayout) -> Tensor:
        """The context of the text encoder as it was pretrained, computed once."""
        if style not in self._fixed:
            with layout.bare():
                self._fixed[style] = self.text_encoder(self.get_buffer(f"captions_{style}")).last_hidden_state
        return self._fixed[style]

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return noised latents and the UNet's target, noise or velocity (Salimans and Ho 2022).

        Args:
            latents: ``(N, c, h, w)``.
            noise: of the same shape, standard normal.
            times: whole steps ``(N,)``.
        """
        kept = self.kept[times].view(-1, 1, 1, 1)
        signal, strength = kept.sqrt(), (1 - kept).sqrt()
        target = signal * noise - strength * latents if self.velocity else noise
        return signal * latents + strength * noise, target

    def balance(self, times: Tensor, most: float) -> Tensor:
        """Return ``(N,)`` weights that hold the signal-to-noise ratio of easy steps down to ``most`` (Hang et al. 2023,
        arXiv 2303.09556, eq. 6 for noise and for velocity)."""
        kept = self.kept[times]
        ratio = kept / (1 - kept)
        return ratio.clamp(max=most) / (ratio + 1 if self.velocity else ratio)

    def sampler(self, name: str, steps: int, device: torch.device) -> Any:
        """Return a sampler of diffusers, set to so many steps."""
        sampler = getattr(diffusers, SAMPLERS[name]).from_config(self.settings, clip_sample=False, **SPACING[name])
        sampler.set_timesteps(steps, device=device)
        return sampler

    @torch.no_grad()
    def draw(
        self, labels: Sequence[int], seeds: Sequence[int], image_size: int, layout: BatchLayout, adapts: bool
    ) -> Tensor:
        """Draw images of one slot; see ``GenerativeFamily.draw``.

        Args:
            labels: class of each image.
            seeds: of each image's noise.
            image_size: px.
            layout: of one slot.
            adapts: True if the slot adapts the text encoder.
        """
        params = layout.params[0]
        key = "contexts"
        if key not in layout.memo:
            layout.memo[key] = self.contexts(layout, [0] if adapts else [])[0]
        context, device = layout.memo[key], self.kept.device
        side = image_size // self.shrink
        shape = (self.unet.config.in_channels, side, side)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        sampler = self.sampler(params.sampler, params.sampler_steps, device)
        x = torch.stack(drawn).to(device) * sampler.init_noise_sigma
        conditions = context[torch.as_tensor(labels, device=device)]
        guided = params.guidance != 1
        if guided:
            conditions = torch.cat([context[-1:].expand(len(conditions), -1, -1), conditions])
        with layout.over({0: len(conditions)}):
            for time in sampler.timesteps:
                seen = sampler.scale_model_input(torch.cat([x, x]) if guided else x, time)
                prediction = self.unet(seen, time, encoder_hidden_states=conditions).sample.float()
                if guided:
                    without, with_caption = prediction.chunk(2)
                    prediction = without + params.guidance * (with_caption - without)
                x = sampler.step(prediction, time, x).prev_sample
        return self.images(x)


def _loaded(kind: Any, folder: Path, part: str) -> Any:
    """Load one network in float32, all of it."""
    file = weights.file_of(folder, part)
    variant = "fp16" if file is not None and ".fp16." in file.name else None
    try:
        model, info = kind.from_pretrained(
            folder,
            subfolder=part,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{folder / part} must hold a model that diffusers can load, but: {reason}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise WeightsError(
            f"{file} must hold every weight of the model, but {len(missing)} are missing: {missing[0]}, ..."
        )
    return model.eval()


def write_random(folder: Path, *, velocity: bool = True) -> None:
    """Write a tiny model with random weights in the layout of Stable Diffusion 2: 16 px images, 8 px latents.

    Args:
        folder: output folder.
        velocity: True for velocity prediction, as Stable Diffusion 2 at 768 px; False for noise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=8,
            norm_num_groups=8,
            use_linear_projection=True,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
            sample_size=16,
        )
        words = _spelling()
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=24,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
                hidden_act="gelu",
                projection_dim=24,
                bos_token_id=len(words) - 2,
                eos_token_id=len(words) - 1,
                pad_token_id=0,
            )
        )
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77)
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if velocity else "epsilon",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline: Any = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def _spelling() -> list[str]:
    """Return a vocabulary that spells every word byte by byte, as CLIP's does without its merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    return [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
