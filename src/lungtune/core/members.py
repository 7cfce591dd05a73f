"""Plug-in discovery by file name: a new file or folder is a new member, without registration.

A member is a module of the package whose name does not begin with an underscore; it exposes itself under one attribute.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from lungtune.errors import SpaceError, did_you_mean


def names(package: ModuleType) -> list[str]:
    """Return the names of all members of ``package``, sorted; imports none of them."""
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in modules if not name.startswith("_"))


def load(package: ModuleType, name: str, attribute: str) -> Any:
    """Import member ``name`` of ``package`` and return its ``attribute``.

    Raises:
        SpaceError: it has no such attribute.
    """
    module = importlib.import_module(f"{package.__name__}.{name}")
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, [each for each in vars(module) if not each.startswith("_")])
        near = hint if "Did you mean" in hint else ""
        raise SpaceError(f"{module.__file__}:1: the module must hold {attribute}, but it is missing.{near}")
    return getattr(module, attribute)
