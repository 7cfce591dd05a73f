"""Procedural chest X-rays: six classes with masks, patients and captions from one latent; no download.

Organs are ellipsoids and tubes whose projected path lengths are closed forms (the idea of the Shepp-Logan head);
pixels follow from Beer and Lambert's law, scatter, quantum noise, blur and a film's display curve. numpy and scipy
only.

    for phantom in generate(10, seed=0, domain="B", size=96):
        phantom.image, phantom.lung_mask, phantom.label, phantom.caption
"""

from lungtune.data.phantom.patient import Patient, Shot, draw_patient, draw_shot
from lungtune.data.phantom.render import VERSION, Phantom, generate, render
from lungtune.data.phantom.settings import CLASSES, Domain, Settings, defaults

__all__ = [
    "CLASSES",
    "VERSION",
    "Domain",
    "Patient",
    "Phantom",
    "Settings",
    "Shot",
    "defaults",
    "draw_patient",
    "draw_shot",
    "generate",
    "render",
]
