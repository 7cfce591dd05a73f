"""open_clip, imported in a tenth of the time: ``from trainables._open_clip import open_clip``.

open_clip imports timm and transformers for towers of their kinds, and through torchvision's detection operators torch's
compiler: six seconds of processor time in every process, none of it used by a CLIP of open_clip's own transformers. The
first two are optional to it, so they are hidden while it is imported; of the third only one function is wanted, which
only a detection operator would call. Whatever was imported before is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch.fx  # noqa: F401 (the stand-in below must not be what it finds)

_OPTIONAL = ("timm", "transformers")


@contextmanager
def _hidden() -> Iterator[None]:
    absent: dict[str, ModuleType | None] = dict.fromkeys(_OPTIONAL)
    compiler, helpers = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    compiler.utils, helpers.is_compile_supported = helpers, lambda device: False  # type: ignore[attr-defined]
    absent |= {"torch._dynamo": compiler, "torch._dynamo.utils": helpers}
    absent = {name: module for name, module in absent.items() if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in absent.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with _hidden():
    import open_clip
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer, text_global_pool

__all__ = ["ResidualAttentionBlock", "TextTransformer", "VisionTransformer", "open_clip", "text_global_pool"]
