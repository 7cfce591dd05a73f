"""open_clip without timm and transformers, which a CLIP of its own transformers does not need.

``from trainables._open_clip import open_clip`` takes a tenth of the time (``_quick``).
"""

from __future__ import annotations

from trainables._quick import lean

with lean("timm", "transformers"):
    import open_clip
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer, text_global_pool

__all__ = ["ResidualAttentionBlock", "TextTransformer", "VisionTransformer", "open_clip", "text_global_pool"]
