"""Backend on Ray: one host process (actor) for each GPU, or each core where there is none. The only importer of ray."""

from lungtune.search.backends.ray_hosts.backend import RayHosts

__all__ = ["BACKEND", "RayHosts"]

BACKEND = RayHosts
