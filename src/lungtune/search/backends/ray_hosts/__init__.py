"""Backend on Ray: one host process (actor) per GPU, or per core without GPUs. The only importer of ray."""

from lungtune.search.backends.ray_hosts.backend import RayHosts

__all__ = ["BACKEND", "RayHosts"]

BACKEND = RayHosts
