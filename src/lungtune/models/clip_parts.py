"""open_clip without timm and transformers, which its native models do not need.

``from lungtune.models.clip_parts import open_clip`` needs a tenth of the time (``lazy_imports``).
"""

from __future__ import annotations

from lungtune.models.lazy_imports import without_compiler

with without_compiler("timm", "transformers"):
    import open_clip
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer, text_global_pool

__all__ = ["ResidualAttentionBlock", "TextTransformer", "VisionTransformer", "open_clip", "text_global_pool"]
