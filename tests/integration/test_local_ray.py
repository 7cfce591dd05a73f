"""A local Ray: few processes, any home folder, no token left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHILD = """
import os, sys
from lungtune.search.backends.ray_hosts import cluster
for home in sys.argv[1:]:
    os.environ["HOME"] = home
    cluster.start()
    import ray
    print(ray.get(ray.remote(lambda: "ran").remote()))
    cluster.stop()
print(sorted(name for name in os.environ if name.startswith("RAY_AUTH")))
os.environ["HOME"] = sys.argv[1]
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes.shutdown()
"""


def test_ray_starts_again_in_another_home_and_in_a_missing_one(tmp_path: Path) -> None:
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    argv = [sys.executable, "-c", CHILD, *map(str, homes), "/proc/none"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ran"] * 3 + ["[]"]
    assert not any((home / ".ray").exists() for home in homes)


PROCESSES = """
import psutil
from lungtune.search.backends.ray_hosts import cluster
cluster.start()
for child in psutil.Process().children(recursive=True):
    print(" ".join(child.cmdline()))
cluster.stop()
"""


def test_local_ray_has_no_dashboard_and_no_monitors() -> None:
    """Fails when the internals of Ray that ``cluster._few_processes`` patches have moved."""
    done = subprocess.run([sys.executable, "-c", PROCESSES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "raylet" in done.stdout
    assert not [name for name in ("log_monitor.py", "monitor.py", "dashboard.py") if name in done.stdout]
    assert "--minimal" in done.stdout
