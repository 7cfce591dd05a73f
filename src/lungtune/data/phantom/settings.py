"""Settings of a phantom set: classes, prevalence, difficulty, acquisition domain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Domain = Literal["A", "B"]

CLASSES = ("normal", "bacterial", "viral", "covid", "tuberculosis", "lung_opacity")
"""Class names in label order."""

PRIOR_A = (0.12, 0.16, 0.18, 0.16, 0.20, 0.18)
PRIOR_B = (0.22, 0.20, 0.17, 0.15, 0.12, 0.14)


@dataclass(frozen=True)
class Settings:
    """Difficulty of a set of phantoms. Ranges are checked.

    Attributes:
        contrast: gain on every lesion, > 0; 1 is the shipped difficulty, 2 is easy, 0.5 is hard.
        severity: spread of the log-normal severity of a patient's findings, >= 0.
        ambiguity: probability in [0, 1] that a second, weaker finding of another class is added to the first.
        label_noise: probability in [0, 1) that a patient's label is replaced by another class. K classes and
            noise e cap the accuracy near 1 - e.
        nuisance: gain on class-independent variation (haze, pose, exposure, noise), >= 0.
        site_shortcut: probability in [0, 1] that the film marker reveals the class; 0 outside experiments on
            shortcuts.
        prior: probability of each class, in the order of ``CLASSES``; empty means the domain's own.
        cooccurrence: probability in [0, 1] of the findings of each class, independently of the others'; 0: every
            patient has one class.
    """

    contrast: float = 1.0
    severity: float = 0.20
    ambiguity: float = 0.06
    label_noise: float = 0.02
    nuisance: float = 1.0
    site_shortcut: float = 0.0
    prior: tuple[float, ...] = field(default=())
    cooccurrence: float = 0.0

    def __post_init__(self) -> None:
        wrong = []
        if not self.contrast > 0:
            wrong.append(f"contrast > 0 must hold, but got {self.contrast}.")
        for name in ("severity", "nuisance"):
            if not getattr(self, name) >= 0:
                wrong.append(f"{name} >= 0 must hold, but got {getattr(self, name)}.")
        for name in ("ambiguity", "label_noise", "site_shortcut", "cooccurrence"):
            if not 0 <= getattr(self, name) <= 1:
                wrong.append(f"0 <= {name} <= 1 must hold, but got {getattr(self, name)}.")
        if self.prior and (len(self.prior) != len(CLASSES) or min(self.prior) < 0 or abs(sum(self.prior) - 1) > 1e-6):
            wrong.append(f"prior must be {len(CLASSES)} probabilities that sum to 1, but got {self.prior}.")
        if wrong:
            raise ValueError(" ".join(wrong))


@dataclass(frozen=True)
class Machine:
    """Acquisition settings of one domain.

    Attributes:
        child: share of patients below 12 years.
        projection_ap: share of pictures taken from the front of a lying patient: larger heart, raised shoulders.
        zoom: mean and standard deviation of the magnification.
        gamma: mean and standard deviation of the display curve's log exponent; below 0 is brighter.
        photons: log10 of the fewest and most photons per pixel.
        blur: smallest and largest point-spread sigma, in parts of the picture's width.
        collimation: share of pictures with a black collimator frame.
    """

    child: float
    projection_ap: float
    zoom: tuple[float, float]
    gamma: tuple[float, float]
    photons: tuple[float, float]
    blur: tuple[float, float]
    collimation: float


MACHINES: dict[Domain, Machine] = {
    "A": Machine(0.15, 0.25, (1.03, 0.05), (-0.25, 0.15), (3.4, 4.2), (0.003, 0.007), 0.30),
    "B": Machine(0.45, 0.50, (1.12, 0.08), (0.10, 0.25), (3.5, 4.5), (0.003, 0.009), 0.15),
}


def defaults(domain: Domain) -> Settings:
    """Return the domain's own settings: A, for pretraining, is clearer, more mixed, never mislabelled; B is harder."""
    if domain == "A":
        return Settings(contrast=1.5, ambiguity=0.15, label_noise=0.0, prior=PRIOR_A)
    return Settings(prior=PRIOR_B)


def resolve(domain: Domain, settings: Settings | None) -> Settings:
    """Return ``settings`` with the domain's prior filled in, or the domain's defaults for None.

    Raises:
        ValueError: the domain is neither A nor B.
    """
    if domain not in MACHINES:
        raise ValueError(f"domain must be 'A' or 'B', but got {domain!r}.")
    if settings is None:
        return defaults(domain)
    return settings if settings.prior else replace(settings, prior=defaults(domain).prior)
