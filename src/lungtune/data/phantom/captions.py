"""Captions that state findings and their locations, as the first lines of a report do, never a disease or class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FORBIDDEN = ("normal", "bacteri", "vir", "covid", "corona", "tubercul", "pneumon", "opacit", "infect", "disease")
"""Parts of words no caption may hold, lower case: they would reveal the label."""

_PHRASES: dict[str, tuple[str, ...]] = {
    "consolidation": (
        "focal dense consolidation in the {side} {zone} zone",
        "{side} {zone} zone airspace consolidation",
        "homogeneous dense patch in the {zone} {side} lung",
    ),
    "reticular": (
        "bilateral perihilar reticular markings",
        "fine interstitial lines around both hila",
        "diffuse streaky interstitial pattern in both lungs",
    ),
    "ground glass": (
        "bilateral peripheral ground-glass patches in the lower zones",
        "hazy ground glass along the periphery of both lower lungs",
        "multiple faint peripheral patches, both bases",
    ),
    "infiltrate": (
        "ill-defined infiltrate in the {side} apex",
        "{side} apical patchy infiltrate",
        "fluffy shadowing at the {side} lung apex",
    ),
    "cavity": (
        "thick-walled cavity in the {side} upper zone",
        "{side} upper zone ring shadow with central lucency",
    ),
    "miliary": (
        "innumerable tiny nodules throughout both lungs",
        "diffuse miliary nodules in both lungs",
    ),
    "effusion": (
        "{side} pleural effusion with meniscus",
        "fluid blunting the {side} costophrenic angle",
        "{side} basal pleural fluid",
    ),
    "band": (
        "linear bands in {side} lower zones",
        "plate-like atelectasis at {side} bases",
    ),
    "bat wing": (
        "symmetric central bat-wing haze around both hila",
        "dense perihilar alveolar oedema on both sides",
    ),
}
FINDINGS = tuple(_PHRASES)
"""Everything a caption can report, besides clear lungs."""
_CLEAR = (
    "both lungs are clear",
    "no focal shadow, sharp costophrenic angles",
    "clear lungs with regular vessel markings",
    "no consolidation, no effusion, no nodules",
)
_NEGATED = ("no effusion", "no cavity", "no consolidation", "heart size within limits", "no nodules")
_EXCLUDES = {
    "no effusion": "effusion",
    "no cavity": "cavity",
    "no consolidation": "consolidation",
    "no nodules": "miliary",
}


def caption(findings: Sequence[dict[str, str | float]], age: int, sex: str, rng: np.random.Generator) -> str:
    """Return one caption of the findings drawn, paraphrased at random.

    Args:
        findings: as in ``lesions.Lesions.findings``; empty for clear lungs.
        age: years.
        sex: F or M.
    """
    phrases = [str(rng.choice(_PHRASES[str(f["finding"])])).format(**f) for f in findings] or [str(rng.choice(_CLEAR))]
    if findings and rng.random() < 0.25:
        present = {f["finding"] for f in findings}
        absent = [n for n in _NEGATED if _EXCLUDES.get(n) not in present]
        phrases.append(str(rng.choice(absent)))
    young, grown = ("girl", "woman") if sex == "F" else ("boy", "man")
    person = f"{age}-year-old {young if age < 16 else grown}"
    leads = ("chest X-ray. ", "frontal chest radiograph. ", f"a chest X-ray of a {person}. ", f"{person}. ")
    lead = str(rng.choice(leads))
    text = lead + ", ".join(phrases) + "."
    return text[0].upper() + text[1:]
