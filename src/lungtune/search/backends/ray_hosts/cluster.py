"""Connection to a Ray cluster: join or start, leave, count devices."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any, TypeVar
from unittest import mock

import ray

from lungtune.core import devices as machine
from lungtune.errors import MachineError
from lungtune.search.backend import BackendError
from lungtune.search.backends.ray_hosts import local_ray, private

T = TypeVar("T")

for _name in ("ray", "ray._private.authentication"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # the journal has the same messages

# Ray's handler of SIGTERM in its core prints a stack trace, and aborts the process three seconds later. The variable of
# the same name is read when Ray is imported, which may have been before.
ray._private.ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True

_AGENT = "get_dashboard_dependency_error"  # what it returns makes Ray's agent small
_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
_own: list[str] = []  # the variables with the token of this process's local Ray


JOIN = 120.0
"""Seconds for joining a cluster."""

ANSWER = 30.0
"""Seconds for an answer of Ray's head, and for leaving Ray."""


def start() -> None:
    """Join the cluster at ``RAY_ADDRESS`` or start a local one.

    Raises:
        StudyError: ``RAY_TMPDIR`` cannot be used.
        MachineError: the cluster does not answer, or no local one can be started; none of its processes is left.
    """
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False, "configure_logging": False}
    own = {} if address else _local()  # raises the user's mistakes
    _no_messages()
    try:
        if address:
            _outlive_the_head()
            bounded(lambda: ray.init(address=address, **quiet), JOIN)
        else:
            _own_token()
            with _few_processes(), private.on_loopback() as loopback:
                local_ray.start(lambda: ray.init(address="local", **own, **loopback, **quiet))
    except Exception as error:  # Ray raises bare ``Exception``
        stop()
        where = f"no Ray cluster answers at RAY_ADDRESS={address}" if address else "Ray could not be started"
        raise MachineError(f"{where}: {' '.join(str(error).split())[:300]}") from error


def bounded(call: Callable[[], T], seconds: float) -> T:
    """Return the result of a call of Ray's that may wait for ever.

    Raises:
        BackendError: it takes longer than ``seconds``; it goes on in a thread.
    """
    result = local_ray.in_thread(call)
    if not wait([result], timeout=seconds).done:
        raise BackendError(f"Ray does not answer within {seconds:g} s")
    return result.result()


def check() -> None:
    """Check the processes of a local Ray.

    Raises:
        BackendError: one has died.
    """
    died = local_ray.dead()
    if died:
        raise BackendError(died)


def answers() -> bool:
    """True if Ray's head answers within ``ANSWER`` seconds."""
    try:
        bounded(ray.cluster_resources, ANSWER)
    except Exception:
        return False
    return True


def _no_messages() -> None:
    """Let Ray print no reports on dead processes, a hundred lines each; the search has a sentence of its own."""
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


def _outlive_the_head() -> None:
    """Let this process live on where the head of a cluster is gone: Ray ends its drivers after a minute."""
    if _RECONNECT not in os.environ:
        os.environ[_RECONNECT] = "600"
        _read_again()


def _local() -> dict[str, Any]:
    """Return arguments of ``ray.init`` for a local Ray: this process's cores and GPUs, a folder of its own."""
    gpus = machine.gpus()
    return {
        "_temp_dir": str(private.folder()),
        "include_dashboard": False,
        "object_store_memory": 128 * 2**20,
        "num_cpus": machine.cores().count,
        "num_gpus": gpus.count if gpus.total else None,  # None: as Ray finds others than NVIDIA's
    }


@contextlib.contextmanager
def _few_processes() -> Iterator[None]:
    """Within the block, ``ray.init`` starts no log monitor, autoscaler monitor or API server, and a small agent.

    Patches Ray's internals, as ``ray.init`` has no option for it; without effect where those have changed.
    """
    params = getattr(ray._private.parameter, "RayParams", None)
    node = getattr(ray._private.node, "Node", None)
    filled_in = getattr(params, "update_if_absent", None)
    utils: Any = ray._private.utils
    if filled_in is None or not (hasattr(node, "start_api_server") and hasattr(utils, _AGENT)):
        yield
        return

    def without(self: Any, **defaults: Any) -> None:
        filled_in(self, **defaults | {"include_log_monitor": False})
        self.no_monitor = True

    with (
        mock.patch.object(params, "update_if_absent", without),
        mock.patch.object(node, "start_api_server", return_value=None),
        mock.patch.object(utils, _AGENT, return_value=ImportError("unused")),
    ):
        yield


def _own_token() -> None:
    """Give a local Ray a random token by the environment, unless the user named one.

    Ray's default is a file in the home folder: readable by all, and not to be had where the folder is read-only.
    """
    if os.environ.get(_MODE, "token") == "token" and not os.environ.keys() & {_TOKEN, "RAY_AUTH_TOKEN_PATH"}:
        _own[:] = [_TOKEN] if _MODE in os.environ else [_TOKEN, _MODE]
        os.environ.update({_TOKEN: secrets.token_hex(32), _MODE: "token"})
        _read_again()


def _read_again() -> None:
    """Let Ray read its authentication variables again, which it caches."""
    raylet: Any = ray._raylet
    with contextlib.suppress(AttributeError):  # names of a later Ray: what it has cached stays
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def stop() -> None:
    """Leave the cluster, or stop the local one, whatever its state."""
    if local_ray.dead():
        local_ray.end()  # what is left of it would be waited for
    try:
        bounded(ray.shutdown, ANSWER)
    except BackendError:
        atexit.unregister(ray.shutdown)  # it would wait again at exit
    local_ray.end()
    private.clean()
    if _own:
        for name in _own:
            os.environ.pop(name, None)
        _own.clear()
        _read_again()


def devices(most: int | None = None) -> tuple[int, bool]:
    """Return the number of devices to use, from 1 to ``most``, and True if they are GPUs (else CPU cores)."""
    resources = resources_now()
    gpus = int(resources.get("GPU", 0))
    found = gpus or max(1, int(resources.get("CPU", 1)))
    return min(found, most or found), gpus > 0


def resources_now() -> dict[str, float]:
    """Return the cluster's resources by name.

    Raises:
        BackendError: Ray does not answer.
    """
    resources: dict[str, float] = bounded(ray.cluster_resources, ANSWER)
    return resources
