"""Settings for rare classes that depend on the data: explicit class weights, SMOTE; their notation and check."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lungtune.errors import SpaceError, did_you_mean

if TYPE_CHECKING:
    from lungtune.core.space import SearchSpace

WEIGHTING, SMOTE = "class_weighting", "smote"
"""Parameters that :func:`check` reads."""

FORM = "weights in class order such as [0.3, 0.7], or by name such as {normal: 0.3, covid: 0.7}"


def read(value: Any) -> str | None:
    """Return explicit class weights as text, the form in which journal, MLflow and recipes hold them.

    Args:
        value: a list of numbers, in class order; a mapping of class name to number; or the text of either. A list that
            holds anything but numbers is none, so that a list of choices may itself hold lists.

    Returns:
        JSON, ``[0.3, 0.7]`` or ``{"covid": 0.7, "normal": 0.3}``, names sorted and in lower case as classes are; None
        if ``value`` is of another form.

    Raises:
        SpaceError: a weight is no number, or not positive and finite.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SpaceError(f"must be {FORM}, but got '{value}'.") from error
    if isinstance(value, Mapping):
        names = [str(name).strip().lower() for name in value]
        if not names or len({*names}) < len(names):
            raise SpaceError(f"must name every class once, but got {dict(value)!r}.")
        return json.dumps(dict(sorted(zip(names, map(_weight, value.values()), strict=True))), ensure_ascii=False)
    if isinstance(value, (list, tuple)) and value and all(map(_is_number, value)):
        return json.dumps([_weight(each) for each in value])
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _weight(value: Any) -> float:
    if not _is_number(value) or not 0 < value < math.inf:
        raise SpaceError(f"a weight must be a positive finite number, but got {value!r}.")
    return float(value)


def weights(text: str, classes: Sequence[str]) -> list[float] | None:
    """Return explicit weights in class order; None where ``text`` is the name of a rule such as ``balanced``.

    Args:
        text: value of ``class_weighting``.
        classes: names, in label order.

    Raises:
        SpaceError: there is not one weight for each class, or a name is no class.
    """
    if text[:1] not in ("[", "{"):
        return None
    given = json.loads(text)
    listed = ", ".join(classes)
    if not classes:
        raise SpaceError(f"{WEIGHTING} {text} needs one class a case, but the data have none.")
    if isinstance(given, list):
        if len(given) != len(classes):
            raise SpaceError(
                f"{WEIGHTING} must have a weight for each of {len(classes)} classes ({listed}), but {text} has "
                f"{len(given)}."
            )
        return [float(value) for value in given]
    unknown = [name for name in given if name not in classes]
    if unknown:
        hint = did_you_mean(unknown[0], classes)
        raise SpaceError(f"{WEIGHTING} must name the classes ({listed}), but '{unknown[0]}' is none.{hint}")
    missing = [name for name in classes if name not in given]
    if missing:
        raise SpaceError(f"{WEIGHTING} must name every class ({listed}), but {text} lacks {', '.join(missing)}.")
    return [float(given[name]) for name in classes]


def check(space: SearchSpace, classes: Sequence[str], counts: Mapping[str, int] | None = None) -> None:
    """Verify that every trial of a search, or a recipe, can be trained on these classes.

    Args:
        space: what is searched, or a recipe.
        classes: names, in label order; empty in data without.
        counts: training images of each class, where the split is known.

    Raises:
        SpaceError: explicit weights do not fit the classes, or SMOTE has a class of one image.
    """
    for member in space.members or (space,):
        for value in member.values(WEIGHTING, "none"):
            weights(value, classes)
        if True in member.values(SMOTE, False):
            check_smote(counts or {})


def check_smote(counts: Mapping[str, int]) -> None:
    """Raise SpaceError if SMOTE can't interpolate within a class: it has one training image."""
    lone = [name for name, count in counts.items() if count == 1]
    if lone:
        raise SpaceError(
            f"{SMOTE} needs at least 2 training images of a class, but {lone[0]} has 1; leave it out with "
            f"--set {SMOTE}=false."
        )
