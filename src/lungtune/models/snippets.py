"""Parts of the READMEs of exported weights that depend on what the outputs mean."""

from __future__ import annotations

from collections.abc import Sequence

from lungtune.core.fields import Labels


def activation(classes: Sequence[str]) -> str:
    """Return the method of a tensor of logits ``(N, C)`` that gives probabilities, as Python code."""
    return "sigmoid()" if isinstance(classes, Labels) else "softmax(1)"
