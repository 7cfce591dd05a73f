"""CLIP as a classifier: construction, partial forward passes, export."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lungtune.core.fields import Labels
from lungtune.errors import SpaceError, WeightsError
from lungtune.layers import attention, parity
from lungtune.layers.layout import BatchLayout
from lungtune.models import clip_weights
from lungtune.models.clip_parts import (
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
    open_clip,
    text_global_pool,
)
from lungtune.models.clip_prompts import STYLES, negative_prompts, prompts


def plain_clip(base: Any) -> Any:
    """Return the pretrained CLIP as open_clip builds it, on the CPU, in eval mode."""
    weights = clip_weights.find(base.model, base.weights, fetch=True)
    patch = open_clip.get_model_config(weights.model)["vision_cfg"].get("patch_size", 16)
    if base.image_size % patch:
        raise SpaceError(f"image_size must be a multiple of the patch ({patch} px), but got {base.image_size}.")
    model = open_clip.create_model(
        weights.model,
        pretrained=str(weights.file) if weights.file else None,
        force_image_size=base.image_size,
        **weights.settings,
    )
    if not isinstance(model.visual, VisionTransformer) or not isinstance(
        getattr(model, "text", None), TextTransformer | None
    ):
        raise WeightsError(f"weights must be a CLIP of open_clip's own two transformers, but {weights.model} is none.")
    return model.eval()


class ClipImages(nn.Module):
    """The image tower of a CLIP, its attention split.

    Args:
        clip: plain open_clip model; taken over.
        frozen: lower blocks that no trial adapts: ``lower`` ends and ``upper`` begins behind them.

    Raises:
        SpaceError: there are not that many.
        WeightsError: an image's embedding is not that of the plain model.
    """

    visual: Any
    patch_weight: Tensor
    patch_bias: Tensor
    class_token: Tensor

    def __init__(self, clip: Any, frozen: int = 0) -> None:
        super().__init__()
        blocks = len(clip.visual.transformer.resblocks)
        if frozen >= blocks:
            raise SpaceError(f"frozen_blocks < {blocks} must hold, the blocks of this image tower, but got {frozen}.")
        image, (mean, std) = parity.batch(1, clip.visual.image_size[0]), pixel_statistics(clip)
        with torch.no_grad():
            pixels = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
            wanted = clip.encode_image(pixels, normalize=True)
            attention.split(clip)
            self.visual = clip.visual
            self.frozen = frozen
            self._take_patches(mean, std)
            _check_parity("an image", wanted, self.image_features(image))

    def _take_patches(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Turn the first convolution into a product over patches of one channel.

        Pixel normalisation and the sum over three equal channels are folded into weight and bias, exactly: there is
        no padding. As a product it costs a fifth of the convolution on a CPU, where batches are small.
        """
        conv = self.visual.conv1
        weight = conv.weight.detach() / torch.tensor(std).view(1, 3, 1, 1)
        bias = -(weight * torch.tensor(mean).view(1, 3, 1, 1)).sum((1, 2, 3))
        if conv.bias is not None:
            bias += conv.bias.detach()
        self.patch = conv.kernel_size
        places = self.visual.positional_embedding.detach()
        self.register_buffer("patch_weight", weight.sum(1).flatten(1))
        self.register_buffer("patch_bias", bias + places[1:])
        self.register_buffer("class_token", (self.visual.class_embedding.detach() + places[0]).view(1, 1, -1))
        del self.visual.conv1

    @property
    def width(self) -> int:
        """Size of ``pooled``."""
        return int(self.visual.ln_post.normalized_shape[0])

    def lower(self, images: Tensor) -> Tensor:
        """Return the tokens ``(N, L, width)`` behind the frozen blocks of images ``(N, 1, H, W)`` in [0, 1]."""
        visual = self.visual
        high, wide = self.patch
        patches = (
            images[:, 0].unflatten(1, (-1, high)).unflatten(3, (-1, wide)).transpose(2, 3).flatten(3).flatten(1, 2)
        )
        tokens = F.linear(patches, self.patch_weight) + self.patch_bias
        x = visual.ln_pre(torch.cat([self.class_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], 1))
        for block in visual.transformer.resblocks[: self.frozen]:
            x = block(x)
        return x

    def upper(self, x: Tensor) -> Tensor:
        """Return what ``lower``'s tokens become before the projection, ``(N, width)``."""
        visual = self.visual
        blocks = visual.transformer.resblocks[self.frozen :]
        only_class_token = visual.pool_type == "tok" and visual.attn_pool is None
        if only_class_token and len(blocks) and type(blocks[-1]) is ResidualAttentionBlock:
            for block in blocks[:-1]:
                x = block(x)
            return visual.ln_post(_few(blocks[-1], x, x[:, :1], None).squeeze(1))
        for block in blocks:
            x = block(x)
        return visual._pool(x)[0]

    def embed(self, x: Tensor) -> Tensor:
        """Return the normalised embeddings ``(N, D)`` of ``lower``'s tokens."""
        return _embedding(self.upper(x), self.visual.proj)

    def image_features(self, images: Tensor) -> Tensor:
        """Return normalised embeddings ``(N, D)`` of images ``(N, 1, H, W)`` in [0, 1]."""
        return self.embed(self.lower(images))


class ClipClassifier(ClipImages):
    """A CLIP whose attention is split, with the tokens of every class caption.

    A class is scored by the cosine of image and caption; a label by the cosine with the caption of its presence less
    that with the caption of its absence.

    Args:
        clip: plain open_clip model; taken over.
        classes: class names, or ``core.fields.Labels``.
        tokenizer: open_clip tokenizer of the model.
        frozen: see ``ClipImages``.

    Raises:
        SpaceError: see ``ClipImages``.
        WeightsError: the embedding of an image or of a caption is not that of the plain model.
    """

    text: Any
    scale: Tensor

    def __init__(self, clip: Any, classes: Sequence[str], tokenizer: Any, frozen: int = 0) -> None:
        texts = {style: captions_of(classes, style) for style in STYLES}
        tokens = {style: tokenizer([c for each in captions for c in each]) for style, captions in texts.items()}
        caption = next(iter(tokens.values()))[:1]
        with torch.no_grad():
            wanted = clip.encode_text(caption, normalize=True)
        super().__init__(clip, frozen)
        self.text = getattr(clip, "text", None) or _TextTower(clip)
        self.register_buffer("scale", clip.logit_scale.detach().exp().float())
        self.labels = isinstance(classes, Labels)
        self.each = {style: len(captions[0]) for style, captions in texts.items()}
        # The end token has the largest number; nothing behind it is read, thanks to the causal mask. One length for all
        # styles, so that a trial's dropout masks do not depend on other trials' captions.
        used = max(int(t.argmax(1).max()) for t in tokens.values()) + 1
        for style, t in tokens.items():
            self.register_buffer(f"captions_{style}", t[:, :used].contiguous(), persistent=False)
        with torch.no_grad():
            _check_parity("a caption", wanted, self.text_features(caption[:, :used]))
        self._fixed: dict[str, Tensor] = {}

    def text_features(self, tokens: Tensor) -> Tensor:
        """Return normalised embeddings ``(N, D)`` of captions ``(N, L)``."""
        tower = self.text
        length = tokens.shape[1]
        x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        blocks = tower.transformer.resblocks
        if tower.pool_type == "argmax" and type(blocks[-1]) is ResidualAttentionBlock:
            for block in blocks[:-1]:
                x = block(x, attn_mask=mask)
            ends = tokens.argmax(1)
            wanted = x[torch.arange(len(x), device=x.device), ends].unsqueeze(1)
            visible = None if mask is None else mask[ends].view(-1, 1, 1, length)
            x = tower.ln_final(_few(blocks[-1], x, wanted, visible).squeeze(1))
        else:
            x = tower.ln_final(tower.transformer(x, attn_mask=mask))
            x = text_global_pool(x, tokens, tower.pool_type, eos_token_id=tower.eos_id)
        return _embedding(x, tower.text_projection)

    def captions(self, style: str) -> Tensor:
        """Return the tokens ``(C * captions of a class, L)`` of a prompt style, class by class.

        Of labels, those of their presence come before those of their absence: ``(2 C * captions of a label, L)``.
        """
        return self.get_buffer(f"captions_{style}")

    def class_matrix(self, style: str, features: Tensor) -> Tensor:
        """Average the captions' embeddings ``(C * captions, D)`` class by class and renormalise: ``(C, D)``.

        Of labels, the embedding of presence less that of absence.
        """
        means = F.normalize(features.view(-1, self.each[style], features.shape[-1]).mean(1), dim=-1)
        if not self.labels:
            return means
        present, absent = means.chunk(2)
        return present - absent

    @torch.no_grad()
    def fixed_matrix(self, style: str, layout: BatchLayout) -> Tensor:
        """Return the class matrix of the text tower as it was pretrained, computed once for each style."""
        if style not in self._fixed:
            with layout.bare():
                self._fixed[style] = self.class_matrix(style, self.text_features(self.captions(style)))
        return self._fixed[style]


def captions_of(classes: Sequence[str], style: str) -> list[list[str]]:
    """Return the captions that images are scored against, class by class; see ``ClipClassifier.captions``."""
    return prompts(classes, style) + (negative_prompts(classes, style) if isinstance(classes, Labels) else [])


def _check_parity(what: str, wanted: Tensor, got: Tensor) -> None:
    if problem := parity.sentence(wanted, got):
        raise WeightsError(
            f"weights must be a CLIP whose towers run block by block, but with them the embedding of {what} {problem}."
        )


class _TextTower(nn.Module):
    """The text half of a CLIP that keeps its parts at its top, under the names of open_clip's ``TextTransformer``."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.register_buffer("attn_mask", clip.attn_mask, persistent=False)
        self.pool_type, self.eos_id = clip.text_pool_type, clip.text_eos_id


def _embedding(x: Tensor, projection: Tensor | nn.Linear | None) -> Tensor:
    """Project and normalise in float32: a cosine is multiplied by 100, and bf16 would leave it two digits."""
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(projection, nn.Linear):
            x = projection(x.to(projection.weight.dtype))
        elif projection is not None:
            x = x.float() @ projection
        return F.normalize(x.float(), dim=-1)


def _few(block: Any, x: Tensor, wanted: Tensor, mask: Tensor | None) -> Tensor:
    """Run a residual block for the ``wanted (N, k, D)`` tokens of ``x (N, L, D)`` only: the last block's saving."""
    keys = block.ln_1(x)
    wanted = wanted + block.ls_1(block.attn(block.ln_1(wanted), keys, keys, attn_mask=mask)[0])
    return wanted + block.ls_2(block.mlp(block.ln_2(wanted)))


def pixel_statistics(clip: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Return the pixel mean and standard deviation a CLIP was trained with, for each of its three channels."""
    config = clip.visual.preprocess_cfg
    return config["mean"], config["std"]


def tokenizer(base: Any) -> Any:
    """Return the tokenizer of a base."""
    model = clip_weights.find(base.model, base.weights, fetch=False).model
    return _tokenizer(model, json.dumps(open_clip.get_model_config(model), sort_keys=True))


@functools.lru_cache(maxsize=2)
def _tokenizer(model: str, config: str) -> Any:
    """Build a tokenizer; it parses 49,000 words, which is slower than building a small CLIP.

    Raises:
        WeightsError: it is one of transformers' that can't be loaded, or comes with code of its own, which is not run.
    """
    if "hf_tokenizer_name" not in (json.loads(config) or {}).get("text_cfg", {}):
        return open_clip.get_tokenizer(model)
    try:
        return open_clip.get_tokenizer(model, trust_remote_code=False)  # by default it asks at the terminal
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"the tokenizer of {model} must load without code of its own, but: {reason}") from error


def config_of(base: Any) -> dict[str, Any]:
    """Return the architecture of a base as open_clip describes it, at the base's image size."""
    weights = clip_weights.find(base.model, base.weights, fetch=False)
    config = open_clip.get_model_config(weights.model)
    config["vision_cfg"]["image_size"] = base.image_size
    if weights.settings.get("force_quick_gelu"):
        config["quick_gelu"] = True
    return config


def write_clip(
    state: dict[str, Tensor], config: dict[str, Any], mean: Sequence[float], std: Sequence[float], folder: Path
) -> None:
    """Write a plain CLIP in open_clip's local-dir format.

    Args:
        state: state dict of open_clip's own modules.
        config: architecture, as ``config_of``.
        mean: pixel mean of each channel.
        std: pixel standard deviation of each channel.
        folder: output folder; created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "open_clip_model.safetensors")
    pixels = {
        "mean": list(mean),
        "std": list(std),
        # As lungtune reads images: aspect ratio kept, black around.
        "interpolation": "bicubic",
        "resize_mode": "longest",
        "fill_color": 0,
    }
    text = json.dumps({"model_cfg": config, "preprocess_cfg": pixels}, indent=2)
    (folder / "open_clip_config.json").write_text(text + "\n")


def write_random(folder: Path) -> None:
    """Write a tiny CLIP with random weights: two blocks of width 32 in either tower, 16 px, a few hundred words."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.model.CLIP(**config)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    write_clip(clip.state_dict(), config, mean, std, folder)
