"""Location of CLIP weights: shipped, in a folder, or in a hub cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungtune.core import paths
from lungtune.errors import WeightsError, did_you_mean
from lungtune.models import hub
from lungtune.models.hub import shipped as shipped

_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class Weights:
    """A CLIP to build.

    Attributes:
        model: name for ``open_clip.create_model``: an architecture, or ``local-dir:`` with a folder.
        file: weights file for an architecture; None for a folder, which holds its own.
        settings: tag's extra arguments (``force_quick_gelu``, pixel mean and std).
    """

    model: str
    file: Path | None
    settings: dict[str, Any]


def find(model: str, weights: str, *, fetch: bool) -> Weights:
    """Find a CLIP's weights.

    Args:
        model: open_clip's name of the architecture; not read when ``weights`` is a folder.
        weights: name of a shipped base, a folder in open_clip's local-dir format, a weights file, or a tag of the
            hub such as ``openai``.
        fetch: download what no cache holds.

    Raises:
        WeightsError: they are unavailable; the message explains how to get them.
    """
    home = shipped(weights)
    for folder in (home, paths.expanded(weights)):
        if folder.is_dir():
            return _folder(folder)
    file = paths.expanded(weights)
    if hub.is_path(weights) and not file.is_file():
        raise WeightsError(f"weights must name a folder with {_CONFIG} and weights, but {weights} does not exist.")
    return _named(model, weights, file if file.is_file() else None, fetch=fetch)


def _folder(folder: Path) -> Weights:
    try:
        config = json.loads((folder / _CONFIG).read_text())["model_cfg"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder} must hold open_clip's {_CONFIG} with a model_cfg, but: {error}.") from error
    files = [p for kind in ("safetensors", "bin", "pth") for p in folder.glob(f"*.{kind}")]
    if not files:
        raise WeightsError(f"{folder} must hold a weights file such as open_clip_model.safetensors, but has none.")
    _only_transformers(str(folder), config)
    return Weights(f"local-dir:{folder}", None, {})


def _only_transformers(name: str, config: Mapping[str, Any]) -> None:
    if "timm_model_name" in config.get("vision_cfg", {}) or "hf_model_name" in config.get("text_cfg", {}):
        raise WeightsError(f"{name} must be a CLIP of open_clip's own transformers, but uses timm or Hugging Face.")


def _named(model: str, tag: str, file: Path | None, *, fetch: bool) -> Weights:
    from lungtune.models.clip_parts import open_clip

    model = model.replace("/", "-")
    if model not in open_clip.list_models():
        raise WeightsError(f"model '{model}' is not one of open_clip's.{did_you_mean(model, open_clip.list_models())}")
    _only_transformers(model, open_clip.get_model_config(model) or {})
    if file is not None:
        return Weights(model, file, {})
    config = open_clip.get_pretrained_cfg(model, tag)
    if not config:
        known = open_clip.list_pretrained_tags_by_model(model)
        raise WeightsError(f"weights '{tag}' are not known for {model}.{did_you_mean(tag, known)}")
    settings = {
        "force_quick_gelu": bool(config.get("quick_gelu")),
        "force_preprocess_cfg": {"mean": config["mean"], "std": config["std"]},
    }
    path = _cached(config) or (fetch and _download(config))
    if not path:
        raise WeightsError(_remedy(model, tag, config))
    return Weights(model, path, settings)


def _cached(config: dict[str, Any]) -> Path | None:
    """Return the file of a tag if a cache on this machine holds it."""
    cached = hub.cached(_candidates(config))
    if cached is None and not config.get("hf_hub") and config.get("url"):
        path = Path(os.path.expanduser("~/.cache/clip")) / Path(config["url"]).name
        return path if path.is_file() else None
    return cached


def _candidates(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (repository, file) pairs that may hold a tag's weights, safetensors first, as open_clip looks for them."""
    if not config.get("hf_hub"):
        return []
    repo, name = os.path.split(config["hf_hub"])
    if not name:
        return [(repo, "open_clip_model.safetensors"), (repo, "open_clip_pytorch_model.bin")]
    stem, end = os.path.splitext(name)
    return [(repo, f"{stem}.safetensors"), (repo, name)] if end in (".bin", ".pth") else [(repo, name)]


def _download(config: dict[str, Any]) -> Path | None:
    """Fetch a tag's weights, with the hub's progress bar; None when the hub does not answer at once."""
    from open_clip.pretrained import download_pretrained

    return hub.fetched(_candidates(config), lambda repo, name: download_pretrained(config))


def _remedy(model: str, tag: str, config: dict[str, Any]) -> str:
    repo = os.path.split(config.get("hf_hub", ""))[0]
    fetch = f"hf download {repo}" if repo else f"open_clip.create_model('{model}', '{tag}')"
    return hub.remedy(tag, model, fetch, "in open_clip's local-dir format")
