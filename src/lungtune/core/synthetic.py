"""Synthetic training images of a trial: amount, mode, and the trials of a search that need a bank."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lungtune.core.space import SearchSpace
from lungtune.errors import SpaceError

RATIO, BALANCE, USE, IMAGES = NAMES = ("synthetic_ratio", "synthetic_balance", "synthetic_use", "synthetic_images")
"""The parameters of every family that classifies."""

GENERATED, DUPLICATES, NONE = "generated", "duplicates", "none"
QUESTION = f"{IMAGES}={NONE},{DUPLICATES},{GENERATED}"
"""Argument of ``retrain --compare`` that measures the effect of synthetic images."""


@dataclass(frozen=True)
class Settings:
    """Settings of a trial; a family without these parameters trains on real images.

    Attributes:
        ratio: further images for each real training image.
        balance: ``uniform`` or ``fill``, see :func:`extra`.
        use: ``mix`` (one shuffled pool with the real images) or ``pretrain`` (first only these, then only real ones).
        images: what the further images are: ``generated`` (a bank's), ``duplicates`` (real training images), ``none``.
    """

    ratio: float = 0.0
    balance: str = "uniform"
    use: str = "mix"
    images: str = GENERATED

    @classmethod
    def of(cls, params: Any) -> Settings:
        """Read them from a family's ``Params``."""
        return cls(*(getattr(params, name, default) for name, default in zip(NAMES, vars(cls()).values(), strict=True)))

    @classmethod
    def from_mapping(cls, params: Mapping[str, Any]) -> Settings:
        """Read them from plain values by name, as a recipe has them."""
        return cls(*(params.get(name, default) for name, default in zip(NAMES, vars(cls()).values(), strict=True)))

    @property
    def adds(self) -> bool:
        """True if a trial trains on additional images, synthetic or repeated."""
        return self.ratio > 0 and self.images != NONE

    @property
    def uses_bank(self) -> bool:
        """True if a trial trains on a bank's images."""
        return self.ratio > 0 and self.images == GENERATED


def settings(space: SearchSpace) -> list[Settings]:
    """Return the settings of each segment of a recipe, the last one's last."""
    return [Settings.from_mapping(params) for params in (*(each.params for each in space.segments), space.fixed)]


def extra(counts: Sequence[int], ratio: float, balance: str) -> tuple[int, ...]:
    """Return the number of further images per class; it never decreases with a larger ratio.

    Their sum is ``ratio`` times the number of real images, to the nearest whole number. ``uniform`` adds equally many
    to every class; ``fill`` adds each image to the class with the fewest so far, so that all classes reach the size
    of the largest and grow equally from there. A remainder goes to the first classes.

    Args:
        counts: real training images of each class.
        ratio: >= 0.
        balance: ``uniform`` or ``fill``.
    """
    total, classes = round(ratio * sum(counts)), len(counts)
    if balance == "uniform":
        return tuple(total // classes + (k < total % classes) for k in range(classes))

    def missing(level: int) -> int:
        return sum(max(0, level - count) for count in counts)

    level = bisect.bisect_right(range(max(counts) + total + 1), total, key=missing) - 1  # the highest all can reach
    counted = [max(0, level - count) for count in counts]
    lowest = [k for k, count in enumerate(counts) if count <= level]
    for k in lowest[: total - sum(counted)]:
        counted[k] += 1
    return tuple(counted)


def wanted(space: SearchSpace) -> float:
    """Return the largest ratio at which a trial of a search may use a bank's images; 0 if none can."""
    return max(_ratio(member) for member in space.members or (space,))


def check_bank_used(space: SearchSpace) -> None:
    """Verify that a search with a bank has trials that use it.

    Raises:
        SpaceError: it has none.
    """
    if not wanted(space):
        raise SpaceError(
            f"--bank is given, but no trial of {space.name} uses synthetic images; did you mean "
            f"--set '{RATIO}=[0, 0.5, 1]'?"
        )


def needed(space: SearchSpace, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the number of images per class that a bank must hold for any trial of a search.

    Args:
        space: what is searched, or a recipe.
        counts: real training images of each class.
    """
    required = [0] * len(counts)
    for member in space.members or (space,):
        ratio = _ratio(member)
        for balance in member.values(BALANCE, "uniform") if ratio else ():
            required = [max(pair) for pair in zip(required, extra(tuple(counts.values()), ratio, balance), strict=True)]
    return dict(zip(counts, required, strict=True))


def reason(space: SearchSpace) -> str:
    """Return the setting that needs a bank's images, for messages: ``synthetic_ratio 2``."""
    return f"{RATIO} {wanted(space):g}"


def canonicalize(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without those of synthetic images where their ratio is 0: they change nothing then."""
    if Settings.from_mapping(params).ratio > 0:
        return dict(params)
    return {name: value for name, value in params.items() if name not in NAMES}


def _ratio(space: SearchSpace) -> float:
    generated = GENERATED in space.values(IMAGES, GENERATED)
    return max(map(float, space.values(RATIO, 0.0))) if generated else 0.0
