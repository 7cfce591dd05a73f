"""Others on the machine: ports, tokens and files of a search and its local Ray."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.checker import check
from tests.faults.drive import gone

JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], logging_level="CRITICAL", log_to_driver=False)
except Exception as error:
    sys.exit(f"refused: {error}")
print("joined", ray.nodes()[0]["Alive"])
"""
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to act as another user")


@pytest.fixture
def training(search):
    """A search whose trials train until the test ends."""
    drive = search(TRIALS=4, SECONDS=1000)
    drive.start()
    drive.wait_for("host", 1)
    return drive


def listening(pids: list[int]) -> dict[str, set[int]]:
    """Return the ports that processes listen on by interface."""
    found: dict[str, set[int]] = {}
    for pid in pids:
        for each in psutil.Process(pid).net_connections("inet"):
            if each.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                found.setdefault(each.laddr.ip, set()).add(each.laddr.port)
    return found


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def join(address: str, **token: str) -> subprocess.Popen[str]:
    """Try to join a Ray cluster in a process of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # The switch keeps Ray from replacing 127.0.0.1 by the machine's address, where nothing listens.
    env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "2", **token}
    words = [sys.executable, "-c", JOIN, address]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def as_nobody(code: str, *words: str) -> str:
    """Run Python code as another user; return its last line of output."""
    other = f"import os, socket, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    run = [sys.executable, "-S", "-c", other + code, *words]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().rpartition("\n")[2]


def test_local_ray_is_reached_by_its_user_alone(training, fault):
    children = training.children()
    with fault("ports of a local Ray scanned", "all on the loopback interface"):
        found = listening([training.pid, *children])
        assert sum(map(len, found.values())) >= 6, "GCS, raylet, object manager, agent, driver, host"
        assert all(map(is_loopback, found)), found
    [gcs] = training.children("gcs")
    [port] = set.union(*listening([gcs]).values())
    address = f"127.0.0.1:{port}"
    token = psutil.Process(gcs).environ()["RAY_AUTH_TOKEN"]
    with fault("join of the local Ray without its token, and with a wrong one", "refused; with its token it works"):
        tries = {
            "none": join(address),
            "wrong": join(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * len(token)),
            "right": join(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token),
        }
        said = {kind: each.communicate(timeout=120)[0] for kind, each in tries.items()}
        assert "joined True" in said["right"], said
        for kind in ("none", "wrong"):
            assert tries[kind].returncode == 1, said
            assert "refused: " in said[kind], said
            assert "InvalidAuthToken" in said[kind] or "token" in said[kind], said
    training.signal(signal.SIGTERM)
    left = training.end()
    check(training.folder, left=left, code=3, finished=False)
    assert gone(children)


@as_root
def test_files_of_a_search_are_closed_to_other_users(training, fault):
    [raylet] = training.children("raylet")
    words = psutil.Process(raylet).cmdline()
    session = Path(next(word for word in words if word.startswith("--session_dir=")).partition("=")[2])
    [socket] = [word.partition("=")[2] for word in words if word.startswith("--raylet_socket_name=")]
    assert Path(socket).is_socket()
    with fault("another user opens Ray's files and sockets, and the study's", "permission denied"):
        assert session.parents[1].stat().st_mode & 0o077 == 0, "the folder above Ray's own, whose mode is 0777"
        for folder in (session, session / "logs"):
            assert "PermissionError" in as_nobody("os.listdir(sys.argv[1])", str(folder))
        connect = "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        assert "PermissionError" in as_nobody(connect, socket)
        assert "PermissionError" in as_nobody("open(sys.argv[1])", f"/proc/{raylet}/environ")
        assert training.folder.stat().st_mode & 0o077 == 0
        assert "PermissionError" in as_nobody("open(sys.argv[1])", str(training.folder / "journal.jsonl"))
    training.signal(signal.SIGKILL)
    training.end()
    assert session.exists(), "nobody was left to delete it"
    os.utime(session.parents[1], (time.time() - 3600,) * 2)
    with fault("a killed search left Ray's files", "the next search deletes them, and its own at its end"):
        training.start()
        training.wait_for("host", 1)
        assert not session.parents[1].exists()
        [raylet] = training.children("raylet")
        words = psutil.Process(raylet).cmdline()
        own = Path(next(word for word in words if word.startswith("--temp_dir=")).partition("=")[2]).parent
        assert own.is_dir()
        training.signal(signal.SIGTERM)
        check(training.folder, left=training.end(), code=3, finished=False)
        assert not own.exists()
