"""Patient and acquisition parameters: the random numbers behind a phantom, without pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lungtune.data.phantom.settings import CLASSES, MACHINES, Domain, Settings

GOLDEN = 0.6180339887498949
"""Golden ratio: multiples of it modulo 1 fill [0, 1) evenly, so class counts stay close to the prior."""


@dataclass(frozen=True)
class Patient:
    """One patient; all lengths in half picture widths of an average adult's film.

    ``truth`` is what was drawn, ``label`` what the data set claims (they differ under label noise), and ``second``
    a weaker foreign finding or -1. ``several`` are the classes whose findings were drawn together; None: of ``truth``.
    """

    seed: int
    domain: Domain
    number: int
    truth: int
    label: int
    second: int
    severity: float
    images: int
    age: int
    sex: Literal["F", "M"]
    child: bool
    lung_width: float
    lung_height: float
    heart: float
    aorta: float
    fat: float
    body: float
    shoulder: float
    rib_spacing: float
    rib_drop: float
    rib_contrast: float
    clavicle: float
    dome: float
    dome_tilt: float
    gas: float
    breast: float
    tree: int
    vessel: float
    several: tuple[int, ...] | None = None

    @property
    def patient_id(self) -> str:
        """The identifier in the data set, unique within a domain and seed."""
        return f"phantom{self.domain}{self.number:06d}"


@dataclass(frozen=True)
class Shot:
    """Acquisition parameters of one image of a patient."""

    index: int
    breath: float
    rotation: float
    zoom: float
    shift: tuple[float, float]
    turn: float
    frontal: bool
    gamma: float
    window: tuple[float, float]
    scatter: float
    photons: float
    blur: float
    haze: float
    collimation: tuple[float, float, float, float] | None
    marker: int
    leads: bool


def stream(seed: int, domain: Domain, patient: int, part: int) -> np.random.Generator:
    """Return the random stream of one part of a patient: 0 its body, 1 its findings, 2 + i its picture i, 400 which
    findings occur together."""
    return np.random.default_rng([seed, ord(domain), patient, part])


def _class(seed: int, domain: Domain, number: int, settings: Settings) -> int:
    start = np.random.default_rng([seed, ord(domain), 77]).random()
    return int(np.searchsorted(np.cumsum(settings.prior)[:-1], (start + GOLDEN * number) % 1.0, side="right"))


def draw_patient(seed: int, domain: Domain, number: int, settings: Settings) -> Patient:
    """Draw patient ``number`` (>= 0) of a set."""
    rng = stream(seed, domain, number, 0)
    truth = _class(seed, domain, number, settings)
    others = [c for c in range(len(CLASSES)) if c != truth]
    label = int(rng.choice(others)) if rng.random() < settings.label_noise else truth
    foreign = int(rng.choice([c for c in others if c != 0]))
    second = foreign if truth != 0 and rng.random() < settings.ambiguity else -1
    several = None
    if settings.cooccurrence:
        chances = stream(seed, domain, number, 400).random(len(CLASSES) - 1)
        several = tuple(c for c, chance in enumerate(chances, 1) if chance < settings.cooccurrence)
        truth = label = several[0] if several else 0
        second = -1
    child = bool(rng.random() < MACHINES[domain].child)
    age = int(rng.integers(1, 12)) if child else int(np.clip(rng.normal(52, 17), 14, 94))
    sex: Literal["F", "M"] = "F" if rng.random() < 0.5 else "M"
    grown_woman = sex == "F" and age > 15
    fat = float(np.clip(rng.normal(0.35 if child else 0.5, 0.2), 0, 1))
    return Patient(
        seed=seed,
        domain=domain,
        number=number,
        truth=truth,
        label=label,
        second=second,
        severity=float(np.exp(np.clip(rng.normal(-0.02, settings.severity), -0.5, 0.7))),
        images=int(rng.choice(4, p=(0.5, 0.25, 0.15, 0.10))) + 1,
        age=age,
        sex=sex,
        child=child,
        lung_width=float(rng.normal(0.73, 0.045)),
        lung_height=float(rng.normal(1.10 if child else 1.18, 0.07)),
        heart=float(rng.normal(1.08 if child else 0.97, 0.08)),
        aorta=float(0.35 if child else np.clip(0.7 + 0.008 * (age - 40) + rng.normal(0, 0.15), 0.4, 1.3)),
        fat=fat,
        body=float(0.90 + 0.10 * fat + rng.normal(0, 0.02)),
        shoulder=float(rng.normal(-0.66 if child else -0.62, 0.04)),
        rib_spacing=float(rng.normal(0.116 if child else 0.124, 0.005)),
        rib_drop=float(rng.normal(0.24 if child else 0.34, 0.04)),
        rib_contrast=float(np.clip(rng.normal(1.0, 0.25), 0.4, 1.6)),
        clavicle=float(rng.normal(0.0, 0.03)),
        dome=float(rng.normal(0.0, 0.03)),
        dome_tilt=float(rng.normal(0.05, 0.02)),
        gas=float(rng.uniform(0.4, 1.2) if rng.random() < 0.75 else 0.0),
        breast=float(np.clip(rng.normal(0.6, 0.3), 0.1, 1.2)) if grown_woman else 0.0,
        tree=int(rng.integers(64)),
        vessel=float(np.clip(rng.normal(1.0, 0.2), 0.5, 1.5)),
        several=several,
    )


def draw_shot(patient: Patient, index: int, settings: Settings) -> Shot:
    """Draw picture ``index`` (0-based) of a patient."""
    rng = stream(patient.seed, patient.domain, patient.number, 2 + index)
    machine, wild = MACHINES[patient.domain], settings.nuisance
    collimation = tuple(float(v) for v in rng.uniform(-0.02, 0.09, 4)) if rng.random() < machine.collimation else None
    frontal = bool(rng.random() < machine.projection_ap)
    marker = int(rng.integers(4))
    if rng.random() < settings.site_shortcut:
        marker = 10 + patient.truth
    return Shot(
        index=index,
        breath=float(np.clip(rng.normal(-0.03 if frontal else 0.0, 0.035 * wild), -0.12, 0.08)),
        rotation=float(np.clip(rng.normal(0, 0.03 * wild), -0.12, 0.12)),
        zoom=float(np.clip(rng.normal(*machine.zoom), 0.8, 1.25)),
        shift=(float(rng.normal(0, 0.065 * wild)), float(rng.normal(0.02, 0.065 * wild))),
        turn=float(np.clip(rng.normal(0, 0.065 * wild), -0.18, 0.18)),
        frontal=frontal,
        gamma=float(np.exp(machine.gamma[0] + machine.gamma[1] * wild * rng.normal())),
        window=(float(rng.uniform(0.0, 0.06 * wild)), float(rng.uniform(-0.03, 0.08 * wild))),
        scatter=float(rng.uniform(0.10, 0.35)),
        photons=float(10 ** rng.uniform(*machine.photons)),
        blur=float(rng.uniform(*machine.blur)),
        haze=float(rng.uniform(0.06, 0.18)) * min(wild, 3.0) if rng.random() < 0.5 else 0.0,
        collimation=collimation,  # type: ignore[arg-type]
        marker=marker,
        leads=bool(rng.random() < 0.10 * min(wild, 2.0)),
    )
