"""Rendering of a patient to pixels: attenuation, scatter, noise, blur and display curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungtune.data.phantom import anatomy, lesions, textures
from lungtune.data.phantom.captions import caption
from lungtune.data.phantom.geometry import Array, ellipsoid, grid
from lungtune.data.phantom.patient import Patient, Shot, draw_patient, draw_shot, stream
from lungtune.data.phantom.settings import Domain, Settings, resolve

VERSION = 2
"""Version of the generator; raise it whenever a pixel changes, so that caches of older pictures are not used."""

_WATER = np.float32(2.6)
"""Attenuation of one chest depth of soft tissue (about 22 cm; scatter and beam hardening included)."""
_BONE = np.float32(4.5)
_LUNG = np.float32(0.22)
"""Density of healthy lung relative to tissue (0.2 to 0.3 g/ml)."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic chest X-ray.

    Attributes:
        image: uint8 ``(S, S)``, bright bone, dark air.
        lung_mask: bool ``(S, S)``, both lung fields above the diaphragm, outside the heart.
        lesion_mask: bool ``(S, S)``, where more than a seventh of the lung's air is gone; inside the lungs.
        label: index into ``CLASSES``, as the data set claims it.
        patient_id: the same for all pictures of a patient.
        caption: findings and places, never a disease.
        age: years.
        sex: F or M.
        latent: what the picture was drawn from: truth, severity, findings, patient and shot.
    """

    image: NDArray[np.uint8]
    lung_mask: NDArray[np.bool_]
    lesion_mask: NDArray[np.bool_]
    label: int
    patient_id: str
    caption: str
    age: int
    sex: str
    latent: dict[str, Any]


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Array, Array]:
    return grid(size)


def render(patient: Patient, shot: Shot, *, size: int = 96, settings: Settings | None = None) -> Phantom:
    """Render one picture.

    Args:
        patient: the patient, from ``draw_patient``.
        shot: the acquisition parameters, from ``draw_shot``.
        size: width and height, px, >= 32.
        settings: difficulty; None means the domain's defaults.
    """
    if size < 32:
        raise ValueError(f"size >= 32 must hold, but got {size}.")
    settings = resolve(patient.domain, settings)
    rng = stream(patient.seed, patient.domain, patient.number, 1000 + shot.index)
    x, y = _grid(size)
    body_rng = stream(patient.seed, patient.domain, patient.number, 500)
    warp = (textures.noise("warp", size, body_rng), textures.noise("warp", size, body_rng))
    f = anatomy.frame(patient, shot, x, y, warp)
    air, field = anatomy.lung(f)
    heart = anatomy.heart(patient, shot, f)
    drawn = _findings(patient, f, size, settings, rng)

    filled = np.where(field, drawn.filled, 0)
    if shot.haze:
        at = f.place(int(rng.choice((-1, 1))), float(rng.uniform(0.2, 0.9)), float(rng.uniform(0.1, 0.95)))
        haze = ellipsoid(f.x, f.y, at, (float(rng.uniform(0.2, 0.4)), float(rng.uniform(0.15, 0.35))))
        air = air * (1 - np.float32(shot.haze) * haze * haze)
    free = np.maximum(air - np.float32(0.95) * heart, np.float32(0.10) * air)
    aerated = free * (1 - filled)
    texture = 1 + np.float32(0.05) * textures.noise("cloud", size, rng)
    soft = anatomy.body(patient, shot, f) + anatomy.belly(patient, f)
    soft = soft + np.float32(0.30) * np.minimum(heart, 0.6)
    vessels = anatomy.lung_vessels(patient, f) * np.minimum(air * 3, 1)
    tissue = soft - (1 - _LUNG) * aerated * texture + vessels * (1 - filled) - anatomy.airway(f)
    thickness = np.maximum(tissue, 0) * _WATER + anatomy.bones(patient, shot, f) * np.minimum(soft * 3, 1) * _BONE

    image = _develop(thickness, shot, rng, size)
    lungs = field & (heart < 0.10)
    return Phantom(
        image=image,
        lung_mask=lungs,
        lesion_mask=lungs & (filled > 0.14),
        label=patient.label,
        patient_id=patient.patient_id,
        caption=caption(drawn.findings, patient.age, patient.sex, rng),
        age=patient.age,
        sex=patient.sex,
        latent={
            "truth": patient.truth,
            "second": patient.second,
            "severity": round(patient.severity, 4),
            "findings": drawn.findings,
            "image": shot.index,
            "frontal": shot.frontal,
        },
    )


def _findings(
    patient: Patient, f: anatomy.Frame, size: int, settings: Settings, rng: np.random.Generator
) -> lesions.Lesions:
    own = stream(patient.seed, patient.domain, patient.number, 1)
    gain = settings.contrast * patient.severity * float(np.exp(rng.normal(0, 0.08)))
    first, *others = (patient.truth,) if patient.several is None else (patient.several or (0,))
    drawn = lesions.draw(f, size, first, gain, own)
    further = [(each, gain) for each in others] + ([(patient.second, 0.55 * gain)] if patient.second > 0 else [])
    for each, strength in further:
        more = lesions.draw(f, size, each, strength, own)
        drawn.filled = 1 - (1 - drawn.filled) * (1 - more.filled)
        drawn.findings.extend(more.findings)
    return drawn


def _develop(thickness: Array, shot: Shot, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Turn attenuation into grey levels."""
    primary = np.exp(-thickness)
    coarse = primary[::4, ::4]
    blurred = ndimage.gaussian_filter(coarse, size * 0.03, mode="nearest")
    glow = np.kron(blurred, np.ones((4, 4), np.float32))[:size, :size]
    glow = ndimage.uniform_filter(glow, 5, mode="nearest")
    signal = primary + np.float32(shot.scatter) * np.minimum(glow, 0.35)
    signal = ndimage.gaussian_filter(signal, shot.blur * size, mode="nearest")
    quanta = np.sqrt(np.maximum(signal, 1e-4) * np.float32(2.5 / shot.photons))
    signal = np.maximum(signal + quanta * rng.standard_normal((size, size), dtype=np.float32), 1e-3)
    density = -np.log(signal)
    core = density[int(size * 0.12) : int(size * 0.9), int(size * 0.12) : int(size * 0.88)]
    low, high = np.quantile(core, (0.01, 0.985))
    span = high - low
    low, high = low - np.float32(0.12 + shot.window[0]) * span, high + np.float32(0.06 + shot.window[1]) * span
    level = np.clip((density - low) / (high - low), 0, 1) ** np.float32(shot.gamma)
    level = _finish(level, shot, size)
    return np.rint(level * 255).astype(np.uint8)


def _finish(level: Array, shot: Shot, size: int) -> Array:
    """Add the collimator's frame, the side marker and monitoring leads."""
    if shot.leads:
        x, y = _grid(size)
        bend = np.float32(0.35 + shot.shift[0])
        wire = np.abs(x - bend + np.float32(0.25) * np.sin(2.2 * y + 9 * shot.turn)) < 1.1 / size
        spot = np.hypot(x - bend + 0.16, y + 0.30) < 0.030
        level = np.where(wire & (y < -0.30), np.float32(0.85) * level + np.float32(0.15), level)
        level = np.where(spot, np.minimum(level + np.float32(0.25), 1), level)
    if shot.collimation:
        top, bottom, left, right = (max(0, int(v * size)) for v in shot.collimation)
        framed = np.full_like(level, 0.02)
        inside = (slice(top, size - bottom), slice(left, size - right))
        framed[inside] = level[inside]
        level = framed
    return _mark(level, shot, size)


_LETTERS = {"L": ("1000", "1000", "1000", "1000", "1111"), "R": ("1110", "1001", "1110", "1010", "1001")}


def _mark(level: Array, shot: Shot, size: int) -> Array:
    """Stamp the lead letter of the side in an upper corner; under a site shortcut its place depends on the class."""
    if shot.marker == 0:
        return level
    side = "L" if shot.marker % 2 else "R"
    unit = max(1, round(size / 96))
    letter = np.array([[float(c) for c in row] for row in _LETTERS[side]], np.float32)
    stamp = np.kron(letter, np.ones((unit, unit), np.float32))
    h, w = stamp.shape
    row = int(size * (0.08 + 0.05 * max(0, shot.marker - 10)))
    column = int(size * 0.91) - w if side == "L" else int(size * 0.07)
    level = level.copy()
    patch = level[row : row + h, column : column + w]
    level[row : row + h, column : column + w] = np.maximum(patch, np.float32(0.92) * stamp)
    return level


def generate(
    n_patients: int,
    *,
    seed: int = 0,
    domain: Domain = "B",
    size: int = 96,
    settings: Settings | None = None,
    first: int = 0,
) -> Iterator[Phantom]:
    """Yield all pictures of ``n_patients`` patients, starting with patient number ``first``.

    Every picture depends on (seed, domain, patient, picture) and the settings only: not on order, process or n.
    """
    settings = resolve(domain, settings)
    for number in range(first, first + n_patients):
        patient = draw_patient(seed, domain, number, settings)
        for index in range(patient.images):
            yield render(patient, draw_shot(patient, index, settings), size=size, settings=settings)
