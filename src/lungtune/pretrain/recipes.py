"""Pretraining recipes of the shipped bases, by name: minutes on one core each, an hour for the diffusion model."""

from __future__ import annotations

from typing import Any

from lungtune.pretrain.contrastive import Contrastive
from lungtune.pretrain.diffusion import Diffusion
from lungtune.pretrain.recipe import Recipe
from lungtune.pretrain.supervised import Supervised

_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VISION = {
    "image_size": 64,
    "layers": 4,
    "width": 128,
    "head_width": 32,
    "patch_size": 8,
    "mlp_ratio": 4.0,
    "pool_type": "avg",  # small lesions count from the first step; a class token first has to learn to look
}
_COMMON: dict[str, Any] = {"patients": 3000, "render_size": 96, "batch": 64, "weight_decay": 0.05}
_NARROW = {"output_stride": 16}  # the last map keeps 4x4 cells of a 64 px image, or a lesion would be a part of one
_VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 24, 48],
    "layers_per_block": 1,
    "latent_channels": 8,  # with four, nodules of two pixels are blurred
    "norm_num_groups": 8,
}
_UNET = {
    # Attention on all 16 x 16 places would take half the time; from 8 x 8 on, a step costs little enough for 40 passes.
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "block_out_channels": [48, 64, 96],
    "layers_per_block": 1,
    "attention_head_dim": [3, 4, 6],  # diffusers' word for the number of heads
    "use_linear_projection": True,
    "norm_num_groups": 8,
}
_PROMPT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}

RECIPES: dict[str, Recipe] = {
    "tiny_clip": Contrastive(
        model={"embed_dim": 128, "vision_cfg": _VISION, "text_cfg": _TEXT},
        text_steps=120,
        passes=9,
        text_lr=3.0e-3,
        lr=2.0e-3,
        temperature=0.07,
        dense=2.0,
        **_COMMON,
    ),
    "tiny_resnet": Supervised(
        architecture="resnet18",
        settings={"layers": [1, 1, 1, 1], "channels": [32, 64, 96, 128], **_NARROW},
        passes=24,
        lr=3.0e-3,
        dense=1.0,
        **_COMMON,
    ),
    "tiny_vit": Supervised(
        architecture="vit_tiny_patch16_224",
        settings={
            "img_size": 64,
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 4,
            "class_token": False,  # see pool_type above
            "global_pool": "avg",
        },
        passes=16,
        lr=2.0e-3,
        dense=2.0,
        **_COMMON,
    ),
    "tiny_convnext": Supervised(
        architecture="convnext_atto",
        settings={
            "depths": [1, 1, 2, 1],
            "dims": [32, 64, 96, 128],
            "ls_init_value": 0.5,  # with timm's 1e-6 a few passes hardly open its blocks
            **_NARROW,
        },
        passes=18,
        lr=3.0e-3,
        dense=1.0,
        **_COMMON,
    ),
    "tiny_conformer": Supervised(
        architecture="conformer_micro", settings={}, passes=14, lr=2.0e-3, dense=1.0, **_COMMON
    ),
    "tiny_diffusion": Diffusion(
        vae=_VAE,
        unet=_UNET,
        text=_PROMPT,
        vae_passes=4,
        vae_batch=8,
        vae_lr=4.0e-3,
        text_steps=120,
        text_lr=3.0e-3,
        temperature=0.07,
        edges=1.0,
        kl=2.0e-4,
        passes=40,
        lr=1.5e-3,
        drop=0.12,
        average=0.999,
        **_COMMON | {"batch": 16, "weight_decay": 0.01},
    ),
}
"""Name of a base -> its recipe."""
