"""Guesses of a source: comparison with the pictures, sentences on them, and refusal of a search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lungtune.data.inventory import Guess, Inventory
from lungtune.data.masks import mask_meaning
from lungtune.data.sources import _names
from lungtune.data.sources._files import named
from lungtune.data.sources._patients import patient_in
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from lungtune.data.splits import Links

_ANSWERS = {"patients": "patient=none where each image is a patient of its own"}
_MEANT = _names.word_set(".heic .heif .avif .raw .mha .mhd .nii .gz .nrrd .mat .zip .tar .7z .rar .psd .svs .npz")
"""Suffixes of files that may hold images, though none of them is read in a folder."""


def sentence(guess: Guess) -> str:
    """Return what was guessed, and the options that confirm or refuse it."""
    if not guess.option:
        return guess.sentence
    other = f", or {_ANSWERS[guess.about]}" if guess.about in _ANSWERS else ""
    verb = "Write" if guess.stops else "To decide it yourself, write"
    return f"{guess.sentence} {verb} {guess.option}{other}."


def guesses(inventory: Inventory) -> list[str]:
    """Return the warnings of an inventory: its guesses, and files left unread that may hold images."""
    unread = {
        kind: count
        for why, kinds in inventory.left.items()
        if why != "ignored"
        for kind, count in kinds.items()
        if kind in _MEANT
    }
    shown = named([f"{kind} {count:,}" for kind, count in unread.items()])
    left = [f"{sum(unread.values()):,} files that may hold images were left unread: {shown}."] if unread else []
    return [*map(sentence, inventory.guesses), *left]


def unconfirmed(inventory: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sentences of guesses that a search needs confirmed.

    Args:
        inventory: `Inventory.to_dict`, or empty.
    """
    held = Inventory.from_dict(dict(inventory)).guesses if inventory else []
    return tuple(sentence(guess) for guess in held if guess.stops)


def require_confirmed(cases: pd.DataFrame, source: str) -> None:
    """Refuse a search on a guess that needs to be confirmed.

    Args:
        cases: the case table.
        source: the data source as the user wrote it.

    Raises:
        DataError: there is one; the message has the options to add to the source.
    """
    for guess in cases.attrs["inventory"].guesses:
        if guess.stops:
            example = f"--data '{source},{guess.option}'"
            other = f", or with {_ANSWERS[guess.about]}" if guess.about in _ANSWERS else ""
            raise DataError(f"{guess.sentence} Start it as {example}{other}.")


def judged(cases: pd.DataFrame, links: Links, masks: pd.DataFrame | None) -> Inventory:
    """Return the source's inventory, completed by what the files hold.

    Args:
        cases: the case table.
        links: between its cases.
        masks: what `scan_masks` returned.
    """
    inventory: Inventory = cases.attrs.get("inventory") or Inventory()
    inventory = replace(inventory, guesses=[_decided(guess, cases, links) for guess in inventory.guesses])
    if cases.attrs.get("restarts"):
        inventory.guesses += _same_number(cases, links)
    if not inventory.patients and cases["patient_id"].notna().any():
        known, count = int(cases["patient_id"].notna().sum()), int(cases["patient_id"].nunique())
        inventory.patients = f"{count:,} patients; {known:,} of {len(cases):,} cases have a patient id"
    meaning = mask_meaning(cases, masks) if masks is not None else ""
    if meaning:
        inventory.masks = f"{inventory.masks}; {meaning}" if inventory.masks else meaning
    return inventory


def _decided(guess: Guess, cases: pd.DataFrame, links: Links) -> Guess:
    """Return a guess of patients with the expression that the pictures support.

    A picture of one number that occurs in the test part and in another one shows that numbering does not restart.
    """
    regardless = str(cases.attrs.get("patients_regardless", ""))
    if guess.about != "patients" or not guess.stops or not regardless:
        return guess
    pattern = re.compile(regardless.partition("=")[2])
    numbers = [patient_in(pattern.search(case)) for case in cases["case_id"]]
    pairs = _across(cases, links, numbers)
    if not pairs:
        return guess
    before = guess.sentence.partition(" Numbers of the test part")[0]
    return replace(
        guess,
        sentence=f"{before} Pictures of one number in the test part and another part are the same, such as {pairs[0]}: "
        "numbering does not restart.",
        option=regardless,
    )


def _same_number(cases: pd.DataFrame, links: Links) -> list[Guess]:
    """Return a guess refuted by pictures: ids that only their part distinguishes, of equal pictures."""
    numbers = [(patient or "").rpartition("/")[2] for patient in cases["patient_id"]]
    pairs = _across(cases, links, numbers)
    if not pairs:
        return []
    return [
        Guess(
            "patients",
            f"Ids of the test part count as other people, but {len(pairs)} pairs of pictures of one number lie in the "
            f"test part and another one: {named(pairs, 3)}. Numbering seems not to restart; an expression without the "
            "part would keep these people in one part.",
        )
    ]


def _across(cases: pd.DataFrame, links: Links, numbers: Sequence[str | None]) -> list[str]:
    """Return pairs of the same picture and number, one in the test part and one outside."""
    exact = [(group[0], row) for group in links.exact for row in group[1:]]
    near = [(pair.first, pair.second) for pair in links.near if pair.kind == "copy"]
    test, ids = (cases["split"] == "test").to_numpy(), cases["case_id"].to_numpy(dtype=object)
    return [
        f"{ids[one]} and {ids[other]}"
        for one, other in exact + near
        if numbers[one] and numbers[one] == numbers[other] and test[one] != test[other]
    ]
