"""Artefacts of version 0.1: studies, recipes, a bank and a model from ``phantom,n=150,test=60``; see `unpack`."""

from __future__ import annotations

import atexit
import functools
import json
import math
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

SOURCE = "phantom,n=150,test=60"
ARCHIVE = Path(__file__).parents[1] / "fixtures" / "v0_1.tar.xz"
STUDIES = ("head", "both", "gen", "mixed", "unet", "lora", "convnext")
"""Those that came to their end; ``killed`` is ``head`` as it was when it was killed."""

_TEXT = (".jsonl", ".json", ".yaml", ".md")


@functools.cache
def _files() -> dict[str, bytes]:
    with tarfile.open(ARCHIVE) as archive:
        result = [(member, archive.extractfile(member)) for member in archive.getmembers() if member.isfile()]
        return {member.name.partition("/")[2]: stream.read() for member, stream in result if stream is not None}


def unpack(home: Path, cache: Path, *parts: str) -> Path:
    """Unpack the artefacts of 0.1 into ``home``, as if they were written there; return ``home``.

    Args:
        home: lungtune's home.
        cache: lungtune's cache, where the images of the splits lie.
        parts: prefixes of the files to unpack, such as ``studies/head/``; without any, all.
    """
    places = {b"@HOME@": home, b"@CACHE@": cache, b"@CODE@": home / "code"}
    for name, data in _files().items():
        if parts and not name.startswith(parts):
            continue
        if name.endswith(_TEXT):
            for mark, place in places.items():
                data = data.replace(mark, str(place).encode())
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return home


@functools.cache
def cache() -> Path:
    """Return a cache that holds the images; tests share it."""
    from lungtune.data import dataset

    folder = Path(tempfile.mkdtemp(prefix="lungtune-version-0.1-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGTUNE_CACHE", str(folder))
        dataset.inspect(SOURCE, seed=0)
    return folder


def settle(home: Path, patch: pytest.MonkeyPatch, *parts: str) -> Path:
    """Set ``home`` as lungtune's home and :func:`unpack` the parts there; return ``home``."""
    patch.setenv("LUNGTUNE_HOME", str(home))
    patch.setenv("LUNGTUNE_CACHE", str(cache()))
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return unpack(home, cache(), *parts)


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Name the fields of ``old`` that ``new`` lacks or has another value of; numbers may differ by rounding.

    Sentences may be worded differently, with the same numbers and names.
    """
    if isinstance(old, dict):
        if not isinstance(new, dict):
            return [f"{place}: {old!r} became {new!r}"]
        return [
            line
            for key, value in old.items()
            for line in (differences(value, new[key], f"{place}.{key}") if key in new else [f"{place}.{key} is gone"])
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for k, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{place}[{k}]")
        ]
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (old, new))
    alike = math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-9) if numbers else facts(old) == facts(new)
    return [] if alike else [f"{place}: {old!r} became {new!r}"]


def facts(value: Any) -> Any:
    """Return the numbers and the names of spaces in a text of several words; any other value as it is."""
    return re.findall(r"\d[\d.]*|\w+_\w+", value) if isinstance(value, str) and " " in value else value


def events(folder: Path) -> list[dict[str, Any]]:
    """Read a journal as plain JSON."""
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
