"""Backend on Ray Tune: its controller starts, pauses and resumes the trials; hosts train them in packs."""

from lungtune.search.backends.ray_tune.backend import RayTune

__all__ = ["BACKEND", "RayTune"]

BACKEND = RayTune
