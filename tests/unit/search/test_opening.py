"""`search.ui.opening`: the line on devices."""

import pytest
from rich.console import Console

from lungtune.core import devices
from lungtune.core.devices import Share
from lungtune.search.ui import opening


@pytest.mark.parametrize(
    ("cores", "gpus", "options", "line"),
    [
        (Share(2, 2), Share(0, 0), (None, None), "2 cores, a worker process each"),
        (Share(1, 1), Share(0, 0), (4, None), "1 core, a worker process each"),
        (Share(1, 2, "CPU affinity"), Share(0, 0), (None, None), "1 of 2 cores (CPU affinity), a worker process each"),
        (Share(8, 8), Share(0, 0), (2, None), "8 cores, 2 worker processes (--hosts 2)"),
        (Share(8, 8), Share(1, 4, "[x]"), (None, None), "1 of 4 GPUs ([x]), a worker process each"),
        (Share(8, 8), Share(2, 4, "X"), (1, "0,2"), "2 of 4 GPUs (--gpus 0,2), 1 worker process (--hosts 1)"),
        (Share(8, 8), Share(0, 4, "X"), (None, None), "8 cores, a worker process each"),
    ],
)
def test_devices_and_what_limits_them_are_named(cores, gpus, options, line, monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(devices, "cores", lambda: cores)
    monkeypatch.setattr(devices, "gpus", lambda: gpus)
    opening.devices(*options, Console(width=40))
    assert capsys.readouterr().out == f"devices: {line}\n"


def test_devices_of_a_cluster_are_not_counted_here(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    opening.devices(3, None, Console(width=40))
    assert capsys.readouterr().out == (
        "devices: those of the Ray cluster head:6379 (RAY_ADDRESS), at most 3 worker processes (--hosts 3)\n"
    )
