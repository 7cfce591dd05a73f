"""Type and shape checks of values returned by family methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lungtune.core.contract import wrong


def check_rows(method: Callable[..., Any], values: Any, rows: int) -> None:
    """Verify that a value is a mapping of names to tensors with so many rows.

    Raises:
        ContractError: it is not; the sentence names the method.
    """
    if not tensors(values) or not values:
        raise wrong(method, f"a mapping of names to tensors ({rows}, ...)", shown(values))
    for name, value in values.items():
        if not value.ndim or len(value) != rows:
            raise wrong(method, f"tensors of as many rows as there are cases, {rows}", f"'{name}' {shown(value)}")


def tensors(values: Any) -> bool:
    """True for a mapping of tensors."""
    return isinstance(values, Mapping) and all(isinstance(value, Tensor) for value in values.values())


def shown(value: Any) -> str:
    """Return a value's description for messages: tensors by their shape."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {shown(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {', '.join(map(shown, value[:3]))}" if value else f"{value!r}"
    text = repr(value)
    return text if len(text) < 80 else f"a {type(value).__name__}"
