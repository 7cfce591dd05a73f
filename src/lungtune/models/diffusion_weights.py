"""Location of a latent-diffusion model: a folder in diffusers' layout, shipped, local, or in the hub's cache."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from lungtune.core import paths
from lungtune.errors import SpaceError, WeightsError
from lungtune.models import hub

_log = logging.getLogger(__name__)
_INDEX = "model_index.json"
_WEIGHTS = {
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
    "text_encoder": ("model.safetensors", "model.fp16.safetensors"),
}
"""Parts with weights, and the files that may hold them."""

_FILES = {
    "unet": ("config.json",),
    "vae": ("config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": ("tokenizer_config.json",),
    "scheduler": ("scheduler_config.json",),
}
_OWNERS = ("sd2-community", "stabilityai")
"""Repositories of Stable Diffusion 2: removed from the hub in November 2025, present in older caches."""


def find(weights: str, *, fetch: bool) -> Path:
    """Return the folder of a latent-diffusion model, complete by its files' names, lengths and settings.

    Args:
        weights: name of a shipped base, a folder in the layout of diffusers' ``StableDiffusionPipeline``, or a
            repository of the hub; ``stable-diffusion-2`` is looked for under all its owners.
        fetch: download what no cache holds.

    Raises:
        WeightsError: it is unavailable or incomplete; the message gives a remedy.
    """
    for folder in (hub.shipped(weights), paths.expanded(weights)):
        if folder.is_dir():
            return _whole(folder)
    if weights.startswith((".", "~", "/")) or weights.count("/") > 1 or weights.endswith("/"):
        raise WeightsError(f"weights must name a folder with {_INDEX}, but {weights} does not exist.")
    repos = [weights] if "/" in weights else [f"{owner}/{weights}" for owner in _OWNERS]
    index = hub.cached((repo, _INDEX) for repo in repos)
    if fetch and (index is None or _missing(index.parent)):  # resume an interrupted download
        index = hub.fetched([(repo, _INDEX) for repo in repos], _download) or index
    if index is None:
        raise WeightsError(hub.remedy(weights, "Stable Diffusion", f"hf download {repos[0]}", "in diffusers' layout"))
    return _whole(index.parent, f" Fetch the rest with `hf download {repos[0]}`.")


def _download(repo: str, name: str) -> str:
    """Fetch all parts, with the hub's progress bar; return the path of one file."""
    from huggingface_hub import snapshot_download

    wanted = [_INDEX, "tokenizer/*", *(f"{part}/*.json" for part in _FILES)]
    wanted += [f"{part}/{names[0]}" for part, names in _WEIGHTS.items()]
    return str(Path(snapshot_download(repo, allow_patterns=wanted)) / name)


def _missing(folder: Path) -> list[str]:
    """Return the missing files of a complete model."""
    missing = [
        f"{part}/{name}" for part, names in _FILES.items() for name in names if not (folder / part / name).is_file()
    ]
    missing += [f"{part}/{names[0]}" for part, names in _WEIGHTS.items() if file_of(folder, part) is None]
    words = folder / "tokenizer"
    if not (words / "tokenizer.json").is_file():
        missing += [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt") if not (words / name).is_file()]
    return missing + ([] if (folder / _INDEX).is_file() else [_INDEX])


def _whole(folder: Path, remedy: str = "") -> Path:
    """Return ``folder`` if it is complete; ``remedy`` ends the message if it is not.

    Raises:
        WeightsError: a part is missing, cut short, or does not fit the others.
    """
    missing = _missing(folder)
    if missing:
        raise WeightsError(
            f"{folder} must hold a whole latent-diffusion model in diffusers' layout (safetensors), but these are "
            f"missing: {', '.join(missing)}.{remedy}"
        )
    for part in _WEIGHTS:
        _readable(file_of(folder, part))  # type: ignore[arg-type]
    unet, vae, text = (config(folder, part) for part in _WEIGHTS)
    for what, one, other in (
        ("the UNet's in_channels and the VAE's latent_channels", unet.get("in_channels"), vae.get("latent_channels")),
        (
            "the UNet's cross_attention_dim and the text encoder's hidden_size",
            unet.get("cross_attention_dim"),
            text.get("hidden_size"),
        ),
    ):
        if one != other:
            raise WeightsError(f"{folder}: {what} must be equal, but are {one} and {other}.")
    kind = config(folder, "scheduler").get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise WeightsError(
            f"{folder}: the scheduler's prediction_type must be epsilon or v_prediction, but is {kind!r}."
        )
    return folder


def file_of(folder: Path, part: str) -> Path | None:
    """Return the file that holds a part's weights, None when there is none."""
    return next((folder / part / name for name in _WEIGHTS[part] if (folder / part / name).is_file()), None)


def variant(folder: Path) -> str | None:
    """Return ``fp16`` where the folder holds that kind of files only."""
    file = file_of(folder, "unet")
    return "fp16" if file is not None and ".fp16." in file.name else None


def config(folder: Path, part: str) -> dict[str, Any]:
    """Return the settings of a part.

    Raises:
        WeightsError: they are torn.
    """
    file = folder / part / _FILES[part][0]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} must be JSON, but: {error}.") from error
    return dict(content)


def _readable(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} must be a whole safetensors file, but: {error}. Fetch it again.") from error


def fits(folder: Path, image_size: int) -> None:
    """Verify that images of this size pass through VAE and UNet.

    Raises:
        SpaceError: they do not.
    """
    levels = (len(config(folder, part)["block_out_channels"]) - 1 for part in ("vae", "unet"))
    step = 2 ** sum(levels)
    if image_size % step:
        raise SpaceError(f"image_size must be a multiple of {step} px for {folder.name}, but got {image_size}.")


def content(folder: Path) -> str:
    """Return a hash of what the files of a model hold, the ones that are read."""
    sums = hashlib.blake2b(digest_size=16)
    files = [folder / part / name for part, names in _FILES.items() for name in names]
    files += [file for part in _WEIGHTS if (file := file_of(folder, part))]
    files += [
        file
        for name in ("tokenizer.json", "vocab.json", "merges.txt")
        if (file := folder / "tokenizer" / name).is_file()
    ]
    for file in files:
        with file.open("rb") as stream:
            sums.update(hashlib.file_digest(stream, "blake2b").digest())
    return sums.hexdigest()
