"""Healthy chest: ray path lengths through body, lungs, heart, diaphragm and bones.

One unit of soft tissue is the depth of an average adult's chest. Proportions are those of a frontal film in deep
breath: apices above the clavicles, aortic knob over the left hilum, heart about half the chest's width, right
dome higher than the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtune.data.phantom import textures
from lungtune.data.phantom.geometry import Array, ellipsoid, radius, step, tube, union
from lungtune.data.phantom.patient import Patient, Shot

_DISC = 0.105
"""Height of one thoracic vertebra with its disc."""


@dataclass(frozen=True)
class Frame:
    """Positions of one picture's landmarks and the maps every organ is drawn in; all maps are ``(S, S)``.

    Attributes:
        x, y: body coordinates of each pixel, after the pose and a smooth organic warp.
        left: -1 on the patient's right side (left of the picture), +1 on the patient's left.
        wall: half width of the chest cavity at each pixel's height.
        inner: distance of the lung's inner border from the midline.
        across, down: the pixel's place in its lung: 0 mediastinum to 1 chest wall, 0 apex to 1 base.
        dome: height of the diaphragm at each pixel's x.
        apex, base: y of the lung's apex and of the domes' mean.
    """

    x: Array
    y: Array
    left: Array
    wall: Array
    inner: Array
    across: Array
    down: Array
    dome: Array
    apex: float
    base: float
    width: float
    lean: float

    def place(self, side: int, across: float, down: float) -> tuple[float, float]:
        """Return the (x, y) of a place in one lung (``side`` -1 patient's right, +1 left)."""
        y = self.apex + down * (self.base - self.apex)
        wall = float(_wall(np.float32(y), self.width, self.apex, self.base))
        inner = float(_inner(np.float32(y), self.apex))
        return side * (inner + across * (wall - inner)), y


def _wall(y: Array | np.float32, width: float, apex: float, base: float) -> Array:
    """Half width of the chest cavity: a dome above, nearly straight flanks below."""
    middle = base - 0.25
    up = np.clip((middle - y) / (middle - apex), 0, 1)
    below = np.clip((y - middle) / 0.6, 0, 1)
    return np.float32(width) * (np.sqrt(np.maximum(1 - up**2.3, 1e-4)) ** np.float32(0.95) + np.float32(0.03) * below)


def _inner(y: Array | np.float32, apex: float) -> Any:
    """Distance of the lungs' inner borders from the midline: wide at the great vessels, narrow at the hila."""
    top = np.clip((apex + 0.5 - y) / 0.5, 0, 1)
    return np.float32(0.075) + np.float32(0.115) * top**1.5


def frame(patient: Patient, shot: Shot, x: Array, y: Array, warp: tuple[Array, Array]) -> Frame:
    """Place the landmarks of one picture.

    Args:
        x, y: picture coordinates ``(S, S)`` in [-1, 1].
        warp: two smooth noise fields ``(S, S)`` that bend the anatomy's straight lines.
    """
    c, s = np.float32(np.cos(shot.turn)), np.float32(np.sin(shot.turn))
    dx, dy = (x - np.float32(shot.shift[0])) / shot.zoom, (y - np.float32(shot.shift[1])) / shot.zoom
    bx = (c * dx + s * dy + np.float32(0.010) * warp[0]).astype(np.float32)
    by = (c * dy - s * dx + np.float32(0.010) * warp[1]).astype(np.float32)
    width = patient.lung_width * (1.04 if shot.frontal else 1.0)
    apex = -0.70 + (1.18 - patient.lung_height) * 0.4
    base = apex + patient.lung_height + shot.breath + patient.dome
    left = np.where(bx < 0, np.float32(-1), np.float32(1))
    wall, inner = _wall(by, width, apex, base), _inner(by, apex)
    ax = np.abs(bx + np.float32(0.35 * shot.rotation))
    centre = np.float32(0.50 * width)
    offset = (ax - centre) / np.float32(0.5 * width)
    bend = np.where(offset > 0, np.float32(0.19), np.float32(0.08)) * offset * offset
    dome = np.float32(base - 0.06) + bend + np.float32(0.5 * patient.dome_tilt) * left
    across = (ax - inner) / np.maximum(wall - inner, 0.02)
    down = (by - np.float32(apex)) / np.maximum(dome - np.float32(apex), 0.3)
    return Frame(bx, by, left, wall, inner, across, down, dome, apex, base, width, shot.rotation)


def body(patient: Patient, shot: Shot, f: Frame) -> Array:
    """Return the soft-tissue path length of the whole body, lungs and heart filled in."""
    ax = np.abs(f.x)
    top = patient.shoulder - (0.06 if shot.frontal else 0.0)
    half = np.float32(patient.body) * (1 + 0.02 * f.y) + np.float32(0.30) * step(np.float32(top + 0.28) - f.y, 0.05)
    flank = np.maximum(1 - (ax / half) ** 2.6, 0) ** np.float32(0.42)
    slope = np.float32(top) - np.float32(0.40) * np.maximum(1 - ax / np.float32(0.95), 0) ** np.float32(1.35)
    slope = slope + np.float32(0.5) * np.maximum(ax - np.float32(0.88), 0) ** 2 / np.float32(0.12)
    under = np.sqrt(np.clip((f.y - slope) / np.float32(0.62), 0, 1))
    depth = np.float32(0.92 + 0.18 * patient.fat) + np.float32(0.12) * np.clip(f.y, -0.6, 0.8)
    trunk = depth * flank * under
    neck = np.float32(0.55) * np.sqrt(np.maximum(1 - (f.x / np.float32(0.25)) ** 2, 0)) * step(top + 0.15 - f.y, 0.06)
    along = np.clip((f.y - np.float32(top + 0.18)) / np.float32(1.3), -0.1, 1)
    arm_at = np.float32(patient.body + 0.13) + np.float32(0.20) * along
    arm = np.sqrt(np.maximum(1 - ((ax - arm_at) / np.float32(0.15)) ** 2, 0)) * step(f.y - np.float32(top + 0.12), 0.04)
    arm_bone = tube(ax - arm_at, 0.045) * step(f.y - np.float32(top + 0.12), 0.03)
    total = union(trunk, neck, np.float32(0.38) * arm) + np.float32(0.10) * arm_bone
    if patient.breast:
        for side in (-1, 1):
            r = radius(f.x, f.y, (side * 0.40, 0.22 + 0.06 * patient.breast), (0.27, 0.24 + 0.05 * patient.breast))
            fold = np.maximum(1 - r * r, 0) ** np.float32(0.35) * step(f.y - 0.05, 0.12)
            total += np.float32(0.13 * patient.breast) * fold
    return total


def lung(f: Frame) -> tuple[Array, NDArray[np.bool_]]:
    """Return the air path length of both lungs without the heart, and their silhouette above the domes (bool)."""
    t = np.clip(2 * f.across - 1, -1, 1)
    cross = np.sqrt(np.maximum(1 - np.abs(t) ** 2.4, 0))
    height = np.clip(f.down * 3.2, 0, 1) ** np.float32(0.45)
    above = step(f.dome - f.y, 0.010)
    recess = np.float32(0.20) * np.exp(-np.maximum(f.y - f.dome, 0) / np.float32(0.09))
    inside = (f.across > 0) & (f.across < 1) & (f.y > np.float32(f.apex))
    air = np.where(inside, np.float32(0.74) * cross * height * (above + (1 - above) * recess), 0).astype(np.float32)
    return air, inside & (f.y < f.dome)


def heart(patient: Patient, shot: Shot, f: Frame) -> Array:
    """Return the path length of heart and great vessels: ventricle, atria, aortic knob, pulmonary trunk, cava."""
    k = patient.heart * (1.10 if shot.frontal else 1.0)
    low = f.base - 0.25  # the heart rests on the diaphragm
    x = f.x - np.float32(0.6 * shot.rotation)
    a = patient.aorta

    def part(at: tuple[float, float], axes: tuple[float, float], tilt: float, depth: float) -> Array:
        return np.float32(depth) * ellipsoid(x, f.y, (at[0] * k, low + at[1]), (axes[0] * k, axes[1] * k), tilt)

    chambers = union(
        part((0.150, 0.02), (0.300, 0.185), 0.62, 0.62),  # left ventricle, its tip down and left
        part((-0.060, 0.00), (0.135, 0.200), 0.10, 0.50),  # right atrium
        part((0.040, -0.13), (0.170, 0.220), 0.25, 0.50),  # outflow tract and left atrium
        part((0.085, -0.30), (0.085, 0.120), 0.20, 0.34),  # pulmonary trunk
        part((-0.070, -0.34), (0.055, 0.300), 0.03, 0.30),  # superior vena cava
        np.float32(0.36 * a) * ellipsoid(x, f.y, (0.065 + 0.035 * a, low - 0.46), (0.075, 0.085)),  # aortic knob
    )
    down_x = np.float32(0.085) + np.float32(0.02 * a) * np.cos(f.y * 3)
    aorta = np.maximum(1 - ((x - down_x) / np.float32(0.05)) ** 2, 0) * step(f.y - np.float32(low - 0.46), 0.05)
    return union(chambers, np.float32(0.22 * a) * np.sqrt(aorta))


def bones(patient: Patient, shot: Shot, f: Frame) -> Array:
    """Return the path length of bone: ribs, spine, clavicles, shoulder blades, upper arms."""
    ax = np.abs(f.x + np.float32(0.35 * shot.rotation))
    cage = f.wall + np.float32(0.025)
    u = np.clip(ax / np.maximum(cage, 0.05), 0, 1)
    # The cage narrows under the apex, so ribs there arch over it; all ribs are one periodic profile along a
    # coordinate that follows their sweep.
    drop, gap = np.float32(patient.rib_drop), np.float32(patient.rib_spacing)
    inside = step(cage - ax, 0.012) * step(f.y - np.float32(f.apex - 0.06), 0.02)
    edge = 1 / np.sqrt(1 - u * u + np.float32(0.12))
    back = (f.y - np.float32(f.apex) - drop * (u**2.4 - np.float32(0.32) * u)) / gap
    fade = np.clip((ax - np.float32(0.05)) / np.float32(0.06), 0, 1) * np.clip((np.float32(10.2) - back) * 2, 0, 1)
    ribs = np.float32(0.062) * edge * tube(back - np.floor(back) - np.float32(0.5), 0.23) * inside * fade
    sweep = drop * np.float32(0.72) + np.float32(0.42) * np.clip(1 - u, 0, 1) ** np.float32(0.85)
    front = (f.y - np.float32(f.apex + 0.02) - sweep) / (gap * np.float32(1.12))
    fade = step(u - np.float32(0.40), 0.05) * np.clip((np.float32(6.6) - front) * 2, 0, 1) * np.clip(front + 1.2, 0, 1)
    ribs += np.float32(0.042) * edge * tube(front - np.floor(front) - np.float32(0.5), 0.25) * inside * fade
    total = np.float32(patient.rib_contrast) * ribs

    sx = f.x - np.float32(0.05) * np.sin(2 * f.y + 20 * patient.dome)
    level = f.y / np.float32(_DISC)
    disc = np.maximum(np.cos(np.pi * (level - np.floor(level) - np.float32(0.5))), 0)
    spine = np.sqrt(np.maximum(1 - (sx / np.float32(0.088)) ** 4, 0)) * np.float32(0.045) * (1 + np.sqrt(disc))
    pedicles = np.exp(-(((np.abs(sx) - np.float32(0.055)) / np.float32(0.016)) ** 2)) * disc**4
    total += spine + np.float32(0.03) * pedicles

    for side in (-1, 1):
        lift = (0.05 if shot.frontal else 0.0) + patient.clavicle
        along = (side * f.x - np.float32(0.06 + side * 0.8 * shot.rotation)) / np.float32(0.66)
        s = np.clip(along, 0, 1)
        mid = np.float32(f.apex + 0.19) - np.float32(0.09 + lift) * s + np.float32(0.030) * np.sin(2 * np.pi * s + 0.4)
        ends = step(along + np.float32(0.01), 0.02) * step(np.float32(1.0) - along, 0.03)
        thick = np.float32(0.030) + np.float32(0.012) * np.abs(s - np.float32(0.45))
        total += np.float32(0.120) * tube(f.y - mid, thick) * ends
        at = (side * (0.80 + 0.03 * patient.fat), patient.shoulder + 0.38)
        r = radius(f.x, f.y, at, (0.17, 0.36), side * 0.22)
        blade = np.float32(0.012) * step(1 - r, 0.05)
        blade += np.float32(0.035) * np.exp(-(((r - 1) / np.float32(0.055)) ** 2))
        total += blade * step(side * (f.x - np.float32(at[0])) * -1 + np.float32(0.05), 0.06)
        joint = (side * (patient.body + 0.02), patient.shoulder + 0.13)
        total += np.float32(0.13) * ellipsoid(f.x, f.y, joint, (0.11, 0.11))
    return total


def belly(patient: Patient, f: Frame) -> Array:
    """Return the path length below the domes relative to plain tissue: liver (more), stomach and bowel gas (less)."""
    under = step(f.y - f.dome, 0.02)
    liver = np.float32(0.06) * step(-f.x, 0.2)
    out = under * liver
    if patient.gas:
        top = f.base - 0.02
        tall = 0.05 + 0.07 * patient.gas
        bubble = ellipsoid(f.x, f.y, (0.36, top + tall), (0.09 + 0.09 * patient.gas, tall), 0.12)
        out -= under * np.float32(0.34) * bubble * step(np.float32(top + 1.35 * tall) - f.y, 0.010)
        if patient.gas > 0.8:
            out -= under * np.float32(0.16) * ellipsoid(f.x, f.y, (0.58, top + 0.26), (0.11, 0.08))
    return out.astype(np.float32)


def airway(f: Frame) -> Array:
    """Return the air path length of trachea and main bronchi."""
    carina = f.apex + 0.46
    x = f.x - np.float32(0.6 * f.lean)
    pipe = np.sqrt(np.maximum(1 - (x / np.float32(0.042)) ** 2, 0)) * step(np.float32(carina) - f.y, 0.03)
    fork = np.abs(np.abs(x) - np.maximum(f.y - np.float32(carina - 0.02), 0) * np.float32(1.1))
    bronchi = np.sqrt(np.maximum(1 - (fork / np.float32(0.032)) ** 2, 0)) * step(f.y - np.float32(carina), 0.02)
    return np.float32(0.16) * pipe + np.float32(0.10) * bronchi * step(np.float32(carina + 0.13) - f.y, 0.03)


def lung_vessels(patient: Patient, f: Frame) -> Array:
    """Return the path length of the lungs' vessels and of both hila."""
    right = textures.vessels(patient.tree, f.across, f.down)
    left = textures.vessels(patient.tree // 8 + 3, f.across, f.down - np.float32(0.02))
    vessels = np.where(f.left < 0, right, left)
    total = np.float32(0.12 * patient.vessel) * vessels
    middle = f.apex + 0.5 * (f.base - f.apex)
    for side, y in ((-1, middle + 0.02), (1, middle - 0.03)):
        hilum = radius(f.x, f.y, (side * 0.15, y), (0.085, 0.15), -side * 0.25)
        total += np.float32(0.085) * np.exp(-(hilum**2))
    return total
