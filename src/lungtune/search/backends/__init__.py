"""Backends, one module or folder each, discovered by file name; each exposes its class as ``BACKEND``."""

from __future__ import annotations

import sys

from lungtune.core import members
from lungtune.errors import StudyError, did_you_mean
from lungtune.search.backend import Backend


def get(name: str) -> type[Backend]:
    """Return a backend's class by name.

    Raises:
        StudyError: no backend has that name.
    """
    known = members.names(sys.modules[__name__])
    if name not in known:
        raise StudyError(f"backend must be {' or '.join(known)}, but got {name!r}.{did_you_mean(name, known)}")
    found: type[Backend] = members.load(sys.modules[__name__], name, "BACKEND")
    return found
