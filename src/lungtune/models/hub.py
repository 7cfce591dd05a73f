"""Location and safe loading of pretrained weights: shipped, in a hub cache, or on the hub."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.errors import WeightsError

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_PATIENCE = 5.0
"""Seconds to wait for the first answer."""


def shipped(name: str) -> Path:
    """Return the path of a shipped base, which need not exist."""
    import lungtune

    return Path(lungtune.__file__).parent / "models" / "bases" / name


def is_path(weights: str) -> bool:
    """True if ``weights`` can only be a path."""
    return os.sep in weights or weights.startswith((".", "~"))


def cached(files: Iterable[tuple[str, str]]) -> Path | None:
    """Return the first of these (repository, file) that a cache of the hub on this machine holds."""
    from huggingface_hub import try_to_load_from_cache

    for repo, name in files:
        path = try_to_load_from_cache(repo, name)
        if isinstance(path, str):
            return Path(path)
    return None


def fetched(files: Iterable[tuple[str, str]], download: Callable[[str, str], str]) -> Path | None:
    """Return the first of these (repository, file) that the hub has; None when it does not answer in five seconds."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    for repo, name in files:
        try:
            if exists(hf_hub_url(repo, name), build_hf_headers()):
                return Path(download(repo, name))
        except OSError as error:  # no network, a download that broke off, a full disk
            _log.info("%s of %s cannot be fetched: %s", name, repo, error)
            return None
    return None


def exists(url: str, headers: dict[str, str] | None = None) -> bool:
    """True if a host has such a file.

    Raises:
        OSError: it does not answer within five seconds, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    request = urllib.request.Request(url, headers=headers or {}, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE):
            return True
    except urllib.error.HTTPError as error:
        _log.info("%s: %s", url, error)
        return False


def read(file: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, bare or in a training checkpoint, without unpickling anything but tensors.

    Raises:
        WeightsError: the file is damaged or holds something else.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the settings of many a training script
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{file} must hold a state dict and nothing else, but: {reason}") from error
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{file} must hold a state dict and nothing else, but holds something else.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def remedy(weights: str, model: str, fetch: str, folder: str) -> str:
    """Return the error sentence, with its remedy, for unavailable weights.

    Args:
        weights, model: the requested ones.
        fetch: the command that fetches them where there is a network.
        folder: contents of a folder that replaces them.
    """
    return (
        f"The weights '{weights}' of {model} are neither in a cache of this machine nor to be had from the hub: run "
        f"`{fetch}` once where there is a network and copy the cache, or give a folder {folder} with "
        "`--set weights=DIR`."
    )
