"""Fast import of open_clip and timm.

open_clip and timm import torchvision, whose detection operators import torch's compiler: five seconds of processor time
in every process, for a function that only such an operator would call and a decorator that means nothing unless a model
is compiled. open_clip also imports timm and transformers for towers of their kinds, if they are there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch.fx  # noqa: F401 (the stand-in below must not be what it finds)


@contextmanager
def without_compiler(*absent: str) -> Iterator[None]:
    """Import without torch's compiler, and as if the libraries ``absent`` were not installed.

    Whatever was imported before is left as it is; afterwards everything can be imported as ever.
    """
    compiler, helpers = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    compiler.utils, compiler.disable = helpers, _as_it_is  # type: ignore[attr-defined]
    helpers.is_compile_supported = lambda device: False  # type: ignore[attr-defined]
    hidden: dict[str, ModuleType | None] = dict.fromkeys(absent)
    hidden |= {"torch._dynamo": compiler, "torch._dynamo.utils": helpers}
    hidden = {name: module for name, module in hidden.items() if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in hidden.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _as_it_is(function: Callable | None = None, *args: Any, **kwargs: Any) -> Callable:
    return function if function is not None else _as_it_is


def timm() -> ModuleType:
    """Return timm."""
    with without_compiler():
        import timm as library

    return library
