"""Patient ids: placeholders, doubtful ids, and the noun for the units of splits and intervals."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LARGE_SHARE = 0.2
"""One id with more than this share of all cases is a warning, from `LEAST_CASES` cases on."""

LEAST_CASES = 20
_WORDS = """
    nan none null nil nat na unknown unk unbekannt unspecified undefined undisclosed notavailable notapplicable missing
    anonymous anonymized anonymised anonym anon deidentified redacted removed patient patientid subject test
"""
_NOBODY = frozenset(_WORDS.split())


def nobody(name: str) -> bool:
    """True if a patient id is a placeholder, such as `unknown`, `n/a`, `anonymous`, `-` or nothing."""
    word = re.sub(r"[\W_]+", "", name).casefold()
    return not word or word in _NOBODY


def unit(known: int, cases: int, kind: str = "image") -> str:
    """Return the units of intervals and parts: `patients`, `images`, `volumes`, `patients or images`.

    Args:
        known: number of cases whose patient is known.
        cases: number of all cases.
        kind: `image` or `volume`.
    """
    if known == 0 and cases:
        return f"{kind}s"
    return "patients" if known >= cases else f"patients or {kind}s"


def single(unit: str) -> str:
    """Return the singular of `unit`: `patient`, `image`, `patient or image`."""
    return " or ".join(word.removesuffix("s") for word in unit.split(" or "))


def counted(cases: int, groups: int, unit: str, noun: str = "images") -> str:
    """Return a count of cases and of their groups in words, such as `60 images of 31 patients`.

    Args:
        cases: number of cases.
        groups: number of distinct groups among them (patients joined with duplicates).
        unit: see `unit`.
        noun: for the cases.
    """
    if unit in ("images", "volumes"):
        return f"{cases:,} {noun}" + (f", {groups:,} of them different" if groups < cases else "")
    return f"{cases:,} {noun} of {groups:,} {unit}"


def warnings(cases: pd.DataFrame) -> list[str]:
    """Return a sentence on each kind of doubtful patient id: placeholders, one that covers many, two spellings of one.

    Args:
        cases: the case table; `attrs["placeholders"]` counts ids that were taken as unknown.
    """
    known = cases["patient_id"].dropna()
    return [*_placeholders(cases), *_large(cases, Counter(known)), *_alike(sorted(set(known)))]


def _placeholders(cases: pd.DataFrame) -> list[str]:
    counts = cases.attrs.get("placeholders") or {}
    if not counts:
        return []
    shown = ", ".join(f"'{name}' {count:,}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1])[:5])
    total = sum(counts.values())
    return [
        f"{total:,} of {len(cases):,} images have a patient id that names nobody ({shown}); the patient counts as "
        "unknown. Their duplicates are detected by content, but images of one person may be in two parts."
    ]


def _large(cases: pd.DataFrame, counts: Counter[str]) -> list[str]:
    if len(cases) <= LEAST_CASES or len(counts) < 2:
        return []
    large = [(name, count) for name, count in counts.most_common(5) if count > LARGE_SHARE * len(cases)]
    if not large:
        return []
    shown = ", ".join(f"'{name}' has {count:,} of {len(cases):,}" for name, count in large)
    return [
        f"A patient should have few of the images, but {shown}. If the id is a placeholder, leave it blank: all of its "
        "images are in one part."
    ]


def _alike(names: list[str]) -> list[str]:
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = re.sub(r"(?<=\d)\.0+$", "", name.strip().casefold())
        spellings[re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", plain)].append(name)
    alike = [group for group in spellings.values() if len(group) > 1]
    if not alike:
        return []
    shown = "; ".join(" and ".join(f"'{name}'" for name in group[:3]) for group in alike[:5])
    more = f" and {len(alike) - 5:,} more" if len(alike) > 5 else ""
    return [
        f"A patient should have one id, but {len(alike):,} may have several spellings: {shown}{more}. They count as "
        "different patients; write each in one way."
    ]
