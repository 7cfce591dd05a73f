"""Lesions: for every class, the fraction of air along a ray that fluid or tissue replaces.

Patterns follow the radiology convention: a focal lobar blob (bacterial), interstitial lines around the hila of
both lungs (viral), peripheral ground glass in the lower zones (covid), apical infiltrate, cavity or miliary dots
(tuberculosis), effusion, band or bat-wing oedema (lung_opacity).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lungtune.data.phantom import textures
from lungtune.data.phantom.anatomy import Frame
from lungtune.data.phantom.geometry import Array, radius, step
from lungtune.data.phantom.settings import CLASSES

SIDES = {-1: "right", 1: "left"}


@dataclass
class Lesions:
    """The lesions of one picture.

    Attributes:
        filled: share ``(S, S)`` in [0, 0.95] of the lung's air that fluid or tissue replaces.
        findings: radiological findings with their places: ``{"finding", "side", "zone", "severity"}`` each.
    """

    filled: Array
    findings: list[dict[str, str | float]] = field(default_factory=list)


@dataclass
class _Canvas:
    """One finding being drawn; ``rng`` is the patient's own, so all pictures of a patient show the same lesion."""

    f: Frame
    rng: np.random.Generator
    size: int
    gain: float
    out: Array
    findings: list[dict[str, str | float]]

    def add(self, density: Array, gain: float) -> None:
        """Add one more density to the others: shares of remaining air multiply."""
        self.out *= 1 - np.clip(density * np.float32(gain * self.gain), 0, 0.95)

    def say(self, finding: str, side: str, zone: str) -> None:
        self.findings.append({"finding": finding, "side": side, "zone": zone, "severity": round(self.gain, 3)})

    def noise(self, kind: textures.Kind) -> Array:
        return textures.noise(kind, self.size, self.rng)

    def blob(
        self, side: int, across: float, down: float, axes: tuple[float, float], rough: float, soft: float
    ) -> Array:
        """Return a soft-edged patch in one lung, 1 inside; ``rough`` frays its edge."""
        at = self.f.place(side, across, down)
        r = radius(self.f.x, self.f.y, at, axes, float(self.rng.normal(0, 0.4)))
        return step(1 - r - np.float32(rough) * self.noise("cloud"), soft)


def _bacterial(c: _Canvas) -> None:
    side = int(c.rng.choice((-1, 1)))
    zone = int(c.rng.choice(3, p=(0.30, 0.25, 0.45)))
    down = (0.33, 0.54, 0.76)[zone] + c.rng.normal(0, 0.03)
    axes = (c.rng.uniform(0.17, 0.26), c.rng.uniform(0.14, 0.21))
    mass = c.blob(side, c.rng.uniform(0.40, 0.62), down, axes, 0.16, 0.06)
    c.add(mass * (1 + np.float32(0.22) * c.noise("rough")), 0.76)
    c.say("consolidation", SIDES[side], ("upper", "middle", "lower")[zone])
    if c.rng.random() < 0.08:
        _effusion(c, side, float(c.rng.uniform(0.05, 0.09)))


def _viral(c: _Canvas) -> None:
    lines = np.clip(c.noise("ridge") * np.float32(0.35) + np.float32(0.35), 0, 1.3)
    near = np.exp(-((c.f.across / np.float32(0.62)) ** 2))
    near *= np.exp(-(((c.f.down - np.float32(0.55)) / np.float32(0.40)) ** 2))
    c.add(lines * near, 0.85)
    c.add(near, 0.14)
    c.say("reticular", "both", "perihilar")


def _covid(c: _Canvas) -> None:
    count = int(c.rng.integers(4, 7))
    first = int(c.rng.choice((-1, 1)))
    glass = np.zeros_like(c.out)
    for i in range(count):
        side = first if i % 2 == 0 else -first
        axes = (c.rng.uniform(0.09, 0.15), c.rng.uniform(0.13, 0.22))
        patch = c.blob(side, c.rng.uniform(0.70, 0.92), c.rng.uniform(0.40, 0.92), axes, 0.30, 0.12)
        np.maximum(glass, patch, out=glass)
    c.add(glass * (np.float32(0.8) + np.float32(0.25) * c.noise("rough")), 0.48)
    c.say("ground glass", "both", "peripheral lower")


def _tuberculosis(c: _Canvas) -> None:
    side = int(c.rng.choice((-1, 1)))
    kind = c.rng.random()
    if kind < 0.75:
        apex = c.blob(side, c.rng.uniform(0.35, 0.55), c.rng.uniform(0.14, 0.20), (0.20, 0.15), 0.30, 0.16)
        c.add(apex * np.clip(np.float32(0.55) + np.float32(0.45) * c.noise("grain"), 0, 1.5), 0.80)
        c.say("infiltrate", SIDES[side], "apex")
    if kind < 0.50:
        at = c.f.place(side, float(c.rng.uniform(0.40, 0.60)), float(c.rng.uniform(0.20, 0.28)))
        hole = float(c.rng.uniform(0.060, 0.090))
        r = radius(c.f.x, c.f.y, at, (hole, hole * 1.15), 0.3) + np.float32(0.06) * c.noise("cloud")
        c.add(np.exp(-(((r - np.float32(1.25)) / np.float32(0.30)) ** 2)), 0.75)
        c.out += (1 - c.out) * step(np.float32(0.95) - r, 0.06) * np.float32(0.85)
        c.say("cavity", SIDES[side], "upper")
    if kind >= 0.75:
        dots = np.clip(c.noise("grain") - np.float32(0.75), 0, 2)
        c.add(dots * step(c.f.across, 0.05) * (np.float32(1.1) - np.float32(0.35) * c.f.down), 0.50)
        c.say("miliary", "both", "all")


def _effusion(c: _Canvas, side: int, depth: float) -> None:
    """Fluid in the pleural angle, its meniscus climbing the chest wall."""
    climb = np.clip(c.f.across, 0, 1) ** 3
    surface = c.f.dome - np.float32(depth) - np.float32(0.75 * depth + 0.06) * climb
    density = step(c.f.y - surface, 0.020) * (c.f.left == side)
    c.add(density, 0.85)
    c.say("effusion", SIDES[side], "costophrenic angle")


def _lung_opacity(c: _Canvas) -> None:
    kind = c.rng.random()
    side = int(c.rng.choice((-1, 1)))
    if kind < 0.34:
        _effusion(c, side, float(c.rng.uniform(0.12, 0.24)))
    elif kind < 0.48:
        for i in range(4):
            at = c.f.place((-1, 1)[i % 2], float(c.rng.uniform(0.35, 0.6)), float(c.rng.uniform(0.58, 0.88)))
            r = radius(c.f.x, c.f.y, at, (float(c.rng.uniform(0.20, 0.28)), 0.032), float(c.rng.normal(0, 0.2)))
            c.add(step(1 - r, 0.12), 0.85)
        c.say("band", "both", "lower")
    else:
        wing = np.exp(-(((c.f.across - np.float32(0.22)) / np.float32(0.30)) ** 2))
        wing *= np.exp(-(((c.f.down - np.float32(0.52)) / np.float32(0.26)) ** 2))
        c.add(wing * (np.float32(0.9) + np.float32(0.25) * c.noise("rough")), 0.76)
        c.say("bat wing", "both", "perihilar")


_DRAW: dict[str, Callable[[_Canvas], None]] = {
    "bacterial": _bacterial,
    "viral": _viral,
    "covid": _covid,
    "tuberculosis": _tuberculosis,
    "lung_opacity": _lung_opacity,
}


def draw(f: Frame, size: int, truth: int, gain: float, rng: np.random.Generator) -> Lesions:
    """Draw the findings of class ``truth``.

    Args:
        f: the picture's frame.
        size: picture width, px.
        truth: index into ``CLASSES``; 0 draws nothing.
        gain: factor on all densities (contrast x severity).
        rng: the patient's stream of findings, fresh for each picture.
    """
    canvas = _Canvas(f, rng, size, gain, np.ones_like(f.x), [])
    if truth:
        _DRAW[CLASSES[truth]](canvas)
    return Lesions(np.clip(1 - canvas.out, 0, 0.95), canvas.findings)
