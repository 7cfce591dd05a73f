"""Offline environment and isolated folders for all tests; import path of the integration helpers."""

import gc
import os
import signal
import sys
from pathlib import Path

import platformdirs
import pytest

if sys.dont_write_bytecode:  # then each process a test starts would compile torch, MLflow and Ray again: seconds each
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = str(platformdirs.user_cache_path("lungtune") / "tests-bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # of a shell's background job, of nohup: processes would inherit it
        signal.signal(number, handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent / "integration"))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # the simulator of schedulers


def pytest_collection_modifyitems(config, items):
    """Leave out slow tests unless they are asked for with ``-m slow``."""
    if "slow" in config.getoption("-m"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="minutes long; run with -m slow"))


def pytest_collection_finish():
    """Freeze the objects imported at collection (torch, MLflow, Ray): each garbage collection of them costs 0.3 s."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Undo the freeze: libraries warn at exit about objects that are left over."""
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``-n``: a file's tests stay in one process, as they share fixtures, and slow files (first by name) begin."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)
