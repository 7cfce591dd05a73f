"""Ray backend: its own failures raise ``BackendError``, a worker's are events."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray

from lungtune.search.backend import BackendError, TrialLost, WorkerUnusable
from lungtune.search.backends import get
from lungtune.search.backends.ray_hosts import RayHosts, workers
from lungtune.search.controller import Assignment


def opened(monkeypatch, error):
    """A backend of one host whose every call raises ``error``; no host is created."""
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: (objects, []))
    monkeypatch.setattr(ray, "get", lambda promise: (_ for _ in ()).throw(error))
    monkeypatch.setattr(ray, "kill", lambda handle: None)
    monkeypatch.setattr(
        workers.WorkerPool, "_make", lambda self, device, deaths=0: workers.Worker(device, deaths, None, object())
    )
    backend, pool = RayHosts(), workers.WorkerPool.__new__(workers.WorkerPool)
    pool.workers = [pool._make(0)]
    backend._pool = pool
    return backend


def test_ray_hosts_is_selected_by_name():
    assert get("ray_hosts") is RayHosts


@pytest.mark.parametrize(
    "error", [ConnectionError("no GCS"), RuntimeError("no GCS"), ray.exceptions.RaySystemError("no GCS")]
)
def test_failure_of_ray_itself_is_a_backend_error(monkeypatch, error):
    backend = opened(monkeypatch, error)
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: (_ for _ in ()).throw(error))
    with pytest.raises(BackendError, match="no GCS"):
        backend.poll(0.0)


def test_host_that_dies_before_it_is_ready_is_replaced(monkeypatch):
    backend = opened(monkeypatch, ray.exceptions.ActorDiedError())
    for _ in range(workers.MAX_DEATHS):
        before = backend.pool.workers[0]
        assert backend.poll(0.0) == []
        assert backend.pool.workers[0] is not before
    (event,) = backend.poll(0.0)
    assert isinstance(event, WorkerUnusable)
    assert event.what == "the process of device 0 dies before it can train"


def test_trial_of_a_dead_host_is_lost_and_the_host_replaced(monkeypatch):
    backend = opened(monkeypatch, ray.exceptions.ActorDiedError())
    worker = backend.pool.workers[0]
    worker.opening, worker.slots = None, 2
    worker.handle = SimpleNamespace(train=SimpleNamespace(remote=lambda fields, fresh: object()))
    for number in (0, 1):
        backend.submit(Assignment(number, {}, 0, 0.0))
    assert not backend.has_room()
    monkeypatch.setattr(ray, "get", lambda promise: (_ for _ in ()).throw(ray.exceptions.ActorDiedError()))
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: (objects if len(objects) > 1 else [], []))
    assert [(type(event), event.number) for event in backend.poll(0.0)] == [(TrialLost, 0), (TrialLost, 1)]
    assert len(backend.pool.workers) == 1
    assert backend.pool.workers[0] is not worker


def test_closed_backend_raises():
    with pytest.raises(BackendError, match="the backend is not open"):
        RayHosts().poll(0.0)


@pytest.mark.parametrize("name", ["ray_hosts", "ray_tune"])
def test_workers_use_this_environment_under_uv_run(name):
    code = f"""
from lungtune.search import backends
backends.get({name!r})
from ray._private import ray_constants
assert ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV is False
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
