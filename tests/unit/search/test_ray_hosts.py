"""Ray backend: its own failures raise ``BackendError``, a worker's are events."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import ray

import simulated
from lungtune.search.backend import BackendError, TrialLost, WorkerDoing, WorkerUnusable
from lungtune.search.backends import get
from lungtune.search.backends.ray_hosts import RayHosts, cluster, devices, local_ray, workers
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.controller import Assignment


def pool_of(monkeypatch, count, on_gpus=True):
    """A pool of hosts that have no process."""
    monkeypatch.setattr(workers.cluster, "devices", lambda most: (count, on_gpus))
    monkeypatch.setattr(workers.cluster, "resources_now", lambda: {"CPU": float(count)})
    monkeypatch.setattr(workers.WorkerPool, "_make", lambda self, device: workers.Worker(device, None, object()))
    monkeypatch.setattr(ray, "kill", lambda handle: None)
    return workers.WorkerPool(simulated.space(1), PackHost)


def opened(monkeypatch, error, count=1):
    """A backend of hosts whose every call raises ``error``."""
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: (objects, []))
    monkeypatch.setattr(ray, "get", lambda promise, timeout: (_ for _ in ()).throw(error))
    backend = RayHosts()
    backend._pool = pool_of(monkeypatch, count)
    return backend


def ready(worker):
    """Let a host be ready, with a slot more than it needs."""
    worker.opening, worker.slots = None, 2
    worker.handle = SimpleNamespace(train=SimpleNamespace(remote=lambda fields, fresh: object()))
    return worker


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
    for _ in range(devices.MAX_DEATHS):
        before = backend.pool.workers[0]
        (event,) = backend.poll(0.0)
        assert isinstance(event, WorkerDoing)
        assert event.what.startswith("starts again (")
        assert backend.pool.workers[0] is not before
    (event,) = backend.poll(0.0)
    assert isinstance(event, WorkerUnusable)
    assert event.what == "the process of device 0 dies before it can train"
    assert (event.others, event.again) == (0, devices.FIRST)


def test_trial_of_a_dead_host_is_lost_and_the_host_replaced(monkeypatch):
    backend = opened(monkeypatch, ray.exceptions.ActorDiedError())
    worker = ready(backend.pool.workers[0])
    for number in (0, 1):
        backend.submit(Assignment(number, {}, 0, 0.0))
    assert not backend.has_room()
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: (objects if len(objects) > 1 else [], []))
    events = backend.poll(0.0)
    assert [(type(event), event.number) for event in events] == [(TrialLost, 0), (TrialLost, 1)]
    assert len(backend.pool.workers) == 1
    assert backend.pool.workers[0] is not worker


def test_trials_of_a_stuck_host_are_lost_and_the_host_replaced(monkeypatch):
    backend = opened(monkeypatch, ray.exceptions.ActorDiedError())
    worker = ready(backend.pool.workers[0])
    backend.submit(Assignment(0, {}, 0, 0.0))
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: ([], objects))
    monkeypatch.setattr(worker.watch, "verdict", lambda: "no step for 90 s")
    doing, lost = backend.poll(0.0)
    assert doing == WorkerDoing(0, "starts again (no step for 90 s)")
    assert lost == TrialLost(0, "no step for 90 s")
    assert backend.pool.workers[0] is not worker


def test_device_that_cannot_open_rests_while_others_train(monkeypatch):
    now = [0.0]
    pool = pool_of(monkeypatch, 3)
    for worker in pool.workers:
        worker.device._clock = lambda: now[0]
    broken, *others = pool.workers
    failed = ray.exceptions.RayTaskError("ready", "traceback", RuntimeError("no such device"))
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: ([o for o in objects if o is broken.opening], []))
    monkeypatch.setattr(ray, "get", lambda opening, timeout: (_ for _ in ()).throw(failed))
    (event,) = pool.poll()
    assert (event.index, event.others, event.again) == (0, 2, devices.FIRST)
    assert pool.workers == others
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: ([], objects))
    assert pool.poll() == []
    now[0] = devices.FIRST
    assert pool.poll() == []
    assert [worker.device.index for worker in pool.workers] == [1, 2, 0]


def test_first_core_that_fails_lets_the_others_begin(monkeypatch):
    pool = pool_of(monkeypatch, 3, on_gpus=False)
    assert len(pool.workers) == 1
    pool._rest(pool.workers[0], "device 0 cannot train", RuntimeError("no memory"))
    assert [worker.device.index for worker in pool.workers] == [1, 2]


def test_dead_process_of_ray_is_a_backend_error(monkeypatch):
    pool = pool_of(monkeypatch, 1)
    monkeypatch.setattr(local_ray, "dead", lambda: "Ray's process raylet has died")
    with pytest.raises(BackendError, match="raylet has died"):
        pool.poll()


def test_process_that_ray_never_starts_is_a_backend_error(monkeypatch):
    pool = pool_of(monkeypatch, 1)
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: ([], objects))
    pool.workers[0].asked, pool.workers[0].watch._now = object(), workers.UNBORN + 1
    with pytest.raises(BackendError, match="Ray started no process within 300 s"):
        pool.poll()


def test_call_that_never_returns_is_a_backend_error():
    with pytest.raises(BackendError, match=r"Ray does not answer within 0\.05 s"):
        cluster.bounded(threading.Event().wait, 0.05)
    assert cluster.bounded(lambda: 3, 5.0) == 3


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
