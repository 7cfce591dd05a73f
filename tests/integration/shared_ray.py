"""A home, and one local Ray for all searches of a module: starting one takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lungtune.search.backends.ray_hosts import cluster


@contextmanager
def shared_ray(home: Path, furnish: Callable[[Path], str], **env: str) -> Iterator[pytest.MonkeyPatch]:
    """Start Ray; searches neither start nor stop it until the context ends.

    Args:
        home: lungtune's home, with the cache inside.
        furnish: the fixture of that name.
        env: further variables of Ray's processes.
    """
    furnish(home / "mlflow" / "state" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "LUNGTUNE_PATH"):
            patch.delenv(name, raising=False)
        for name, value in {"LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(home / "cache"), **env}.items():
            patch.setenv(name, value)
        cluster.stop()  # an earlier module may have left one
        cluster.start()
        stop = cluster.stop
        patch.setattr(cluster, "start", lambda: None)
        patch.setattr(cluster, "stop", lambda: None)
        try:
            yield patch
        finally:
            stop()
