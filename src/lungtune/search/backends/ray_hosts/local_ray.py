"""Processes of the Ray that this process starts: a start that is patient on a busy machine, their state, their end.

Uses internals of Ray, as it has no option for what they are needed for; without effect where those have changed.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar
from unittest import mock

import ray

from lungtune.search.backends.ray_hosts import processes

log = logging.getLogger(__name__)

T = TypeVar("T")

START = 240.0
"""Seconds for Ray's start; then its processes are killed, which ends the start with an error."""

AGAIN = 30.0
"""Seconds of them that must be left for another start after one that failed."""

STOPPED = 30.0
"""Seconds after which a process of Ray that is stopped (SIGSTOP) counts as dead."""

_nodes: list[Any] = []
"""Ray's objects that hold the processes of a node, of starts that have not been cleaned up."""
_stopped_at: dict[int, float] = {}


def start(init: Callable[[], object]) -> None:
    """Call ``init``, which starts a local Ray; once more after a failure, when all its processes have ended.

    Args:
        init: calls ``ray.init``.

    Raises:
        Exception: what ``init`` raised the last time.
    """
    deadline = time.monotonic() + START
    over = threading.Timer(START, end)
    over.daemon = True
    over.start()
    tried = False
    try:
        while True:
            try:
                with _kept(), _patient(deadline):
                    init()
                return
            except Exception as error:  # Ray raises bare ``Exception``
                log.debug("Ray could not be started: %s", error)
                end()
                wait_for([in_thread(ray.shutdown)], timeout=AGAIN)  # of what is half connected
                leaving = not threading.main_thread().is_alive()  # Ray's processes were ended at exit
                if tried or leaving or deadline - time.monotonic() < AGAIN:
                    raise
                tried = True
    finally:
        over.cancel()


def end() -> None:
    """Kill the processes that were started; no effect without any."""
    for node in list(_nodes):
        with contextlib.suppress(Exception):
            node.kill_all_processes(check_alive=False)
    _nodes.clear()
    _stopped_at.clear()


def dead() -> str:
    """Return which process of the local Ray has died, or is stopped for ``STOPPED`` seconds; empty if none."""
    for node in _nodes:
        for name, (first, *_) in list(node.all_processes.items()):
            process = first.process
            if process.poll() is not None:
                return f"Ray's process {name} has died"
            if not processes.stopped(process.pid):
                _stopped_at.pop(process.pid, None)
            elif time.monotonic() - _stopped_at.setdefault(process.pid, time.monotonic()) > STOPPED:
                return f"Ray's process {name} is stopped"
    return ""


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Within the block, keep Ray's object that holds the processes: after a failed start nothing else does."""
    node: Any = ray._private.node.Node
    init = node.__init__

    def keep(self: Any, *args: Any, **named: Any) -> None:
        _nodes.append(self)
        init(self, *args, **named)

    if not (hasattr(node, "kill_all_processes") and hasattr(ray._private.worker, "_global_node")):
        yield
        return
    with mock.patch.object(node, "__init__", keep):
        yield


@contextlib.contextmanager
def _patient(deadline: float) -> Iterator[None]:
    """Within the block, Ray's time-outs that have no variable are as long as the start may take.

    Its raylet waits 15 s for the ports of its agents, which are Python processes, unless it knows them beforehand, and
    ``ray.init`` 30 s for the raylet.
    """
    services: Any = ray._private.services
    start_raylet, get_node = getattr(services, "start_raylet", None), getattr(services, "get_node", None)
    if start_raylet is None or get_node is None:
        yield
        return

    def with_ports(*args: Any, **named: Any) -> Any:
        if named.get("metrics_agent_port") == 0 and named.get("runtime_env_agent_port") == 0:
            unused = {"metrics_agent_port": -1, "metrics_export_port": -1, "dashboard_agent_listen_port": -1}
            named |= {**unused, "runtime_env_agent_port": _free_port()}  # what the small agent reports
        return start_raylet(*args, **named)

    def wait(*args: Any, **named: Any) -> Any:
        while True:
            asked = in_thread(lambda: get_node(*args, **named))  # waits half a minute before it fails
            while not wait_for([asked], timeout=0.1).done:
                died = dead()
                if died or time.monotonic() > deadline:
                    raise ConnectionError(died or "its processes do not answer")
            if not isinstance(asked.exception(), RuntimeError):  # else it has not registered yet
                return asked.result()

    with mock.patch.object(services, "start_raylet", with_ports), mock.patch.object(services, "get_node", wait):
        yield


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Return the future result of a call that may wait for ever."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
