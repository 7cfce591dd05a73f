"""Prompts of CLIP's text tower for each class."""

from __future__ import annotations

import re
from collections.abc import Sequence

STYLES = ("paper", "plain", "clinical", "ensemble")
"""``paper``: the source project's words; ``plain``: a caption with the diagnosis; ``clinical``: a caption with the
findings a radiologist would dictate; ``ensemble``: the mean of several captions of both kinds."""

# Words of the source project: case matters to CLIP's users (not to its lower-casing tokenizer), so it is kept.
_PAPER = {"normal": "NORMAL", "bacterial": "bacteria", "viral": "virus"}

_DIAGNOSIS = {
    "normal": "normal lungs",
    "bacterial": "bacterial pneumonia",
    "viral": "viral pneumonia",
    "pneumonia": "pneumonia",
    "covid": "COVID-19 pneumonia",
    "tuberculosis": "pulmonary tuberculosis",
    "lung opacity": "lung opacity",
}

# Typical findings: Kermany et al. 2018 (Cell 172, fig. S6) for normal, bacterial and viral.
_FINDINGS = {
    "normal": "clear lungs without focal opacity",
    "bacterial": "a focal lobar consolidation",
    "viral": "diffuse bilateral interstitial opacities",
    "pneumonia": "airspace opacity",
    "covid": "bilateral peripheral ground-glass opacities in the lower zones",
    "tuberculosis": "an apical infiltrate with cavitation",
    "lung opacity": "hazy opacity from effusion, atelectasis or oedema",
}

_SYNONYMS = {
    "bacteria": "bacterial",
    "bacterial pneumonia": "bacterial",
    "virus": "viral",
    "viral pneumonia": "viral",
    "covid19": "covid",
    "covid 19": "covid",
    "tb": "tuberculosis",
    "turberculosis": "tuberculosis",
    "no finding": "normal",
    "healthy": "normal",
}


def prompts(classes: Sequence[str], style: str) -> list[list[str]]:
    """Return the captions of each class; an unknown class is called by its own name.

    Args:
        classes: class names as the data source gives them, such as ``lung_opacity``, or names of labels.
        style: one of ``STYLES``.
    """
    return [_captions(_words(name), style) for name in classes]


def negative_prompts(labels: Sequence[str], style: str) -> list[list[str]]:
    """Return the captions of each label's absence, as many as those of its presence.

    As in CheXzero (Tiu et al. 2022), the label's words behind "no"; the opposite of no finding is a finding.
    """
    return [_captions(_words(name), style, absent=True) for name in labels]


def _words(name: str) -> str:
    """Return a class name as lower-case words: ``Lung_Opacity`` and ``LungOpacity`` become ``lung opacity``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = " ".join(re.split(r"[\s_\-./]+", spaced)).strip().lower()
    return _SYNONYMS.get(words, words)


def _captions(words: str, style: str, absent: bool = False) -> list[str]:
    diagnosis = _DIAGNOSIS.get(words, words)
    findings = _FINDINGS.get(words, words)
    paper = _PAPER.get(words, words)
    if absent:
        diagnosis, findings, paper = (
            ("an abnormality",) * 3 if words == "normal" else _negated(diagnosis, findings, paper)
        )
    match style:
        case "paper":
            return [f"An image of {paper} chest X-ray"]
        case "plain":
            return [f"a chest X-ray of {diagnosis}"]
        case "clinical":
            return [f"chest radiograph showing {findings}"]
        case "ensemble":
            return [
                f"a chest X-ray of {diagnosis}",
                f"a chest radiograph of a patient with {diagnosis}",
                f"chest radiograph showing {findings}",
                f"frontal chest X-ray, {findings}",
                findings,
            ]
    raise ValueError(f"prompt style must be one of {', '.join(STYLES)}, but got {style!r}")


def _negated(*words: str) -> tuple[str, ...]:
    return tuple(f"no {re.sub(r'^an? ', '', each)}" for each in words)
