"""Training sessions of a study on this process's device, with a measured number of slots."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lungtune
from lungtune import catalog
from lungtune.core import cache, environment, paths
from lungtune.core import params as parameters
from lungtune.core.io import stage, write_atomic
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.search import study_data

if TYPE_CHECKING:
    from lungtune.engine.session import Session


@dataclass(frozen=True)
class DeviceSession:
    """Training sessions of a study on one device.

    Attributes:
        sessions: ``engine.session.Sessions``, or a stand-in with its ``start``, ``leave``, ``step`` and ``runs``.
        about: ``slots`` (trials at a time), ``why`` (reason of that number), ``rates`` (measured), names of ``device``
            and ``node``.
        references: baseline scores on validation; may be empty.
    """

    sessions: Any
    about: Mapping[str, Any]
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def preload() -> None:
    """Import the libraries that :func:`open_session` needs."""
    with stage("Importing torch"):
        import torch  # noqa: F401

        import lungtune.engine.session  # noqa: F401


def open_session(folder: Path, threads: int, slots: int = 0) -> DeviceSession:
    """Open the session of the study's first base; those of further bases open on first use.

    Args:
        folder: of a study that has begun.
        threads: number of cores this process may use.
        slots: trials at a time; 0: as the study says, or as measured.

    Raises:
        UserError: the weights or the images are not available here, or a user-defined family breaks the contract.
    """
    preload()
    import torch

    from lungtune.engine.session import Sessions, device

    threads = min(threads, environment.cores())  # this machine may have fewer than the cluster on average
    torch.set_num_threads(threads)
    study = Study(folder)
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])
    space = replace(space, slots=slots or space.slots)
    bank = study_data.reopen_bank(history)
    sessions = Sessions(
        space,
        lambda name: catalog.family(name, space.objective.task),
        lambda fields, size: study_data.reload(study, history, fields, size, bank=bank),
        slots=max(1, space.slots),
    )
    name, base = space.bases[0]
    with catalog.family_errors(name):
        with stage("Opening the images"):
            first = sessions.on(name, base)
        if catalog.is_own(name):
            with stage("Rehearsing the family on four cases"):
                _rehearse(space, first)
        device_name = torch.cuda.get_device_name() if device() == "cuda" else f"CPU, {threads} thread(s)"
        about = {"node": socket.gethostname(), "device": device_name, **_slots(space, first, device_name)}
        return DeviceSession(sessions, about, {} if history.baselines else _references(space, first))


def _rehearse(space: SearchSpace, first: Session) -> None:
    """Check the return values of a user-defined family's methods on a few cases; raises ``ContractError``."""
    import numpy as np

    from lungtune.engine import rehearsal

    train = first.dataset.train
    params = parameters.build(first.family.Params, _start_points(space)[0])
    # evenly spaced rows include all classes: cases are sorted by class
    rows = np.unique(np.linspace(0, len(train) - 1, rehearsal.CASES, dtype=int))
    rehearsal.rehearse(first.pack, params, train.select(rows))


def _slots(space: SearchSpace, first: Session, where: str) -> dict[str, Any]:
    """Return ``slots``, ``why`` and ``rates``: as set, 1 if trials share nothing, else measured on this device.

    On a CPU the measurement is cached for other hosts and later searches of this base.
    """
    if space.slots:
        return {"slots": space.slots, "why": "set", "rates": []}
    if len(space.bases) > 1:
        return {"slots": 1, "why": "trials of different bases cannot share steps", "rates": []}
    if not first.family.packs:
        return {"slots": 1, "why": "each trial trains a whole network: there is nothing to share", "rates": []}
    kept = None if first.pack.device.type == "cuda" else _slots_file(space, first, where)
    measured = cache.read_metadata(kept) if kept else None
    if measured is None:
        with stage("Measuring how many trials train fastest together (slots)"):
            capacity = asdict(first.fit(space.max_slots, _start_points(space)))
        measured = {**capacity, "date": time.strftime("%Y-%m-%d %H:%M")}
        if kept:
            with contextlib.suppress(OSError):
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(kept, json.dumps(measured).encode())
        return capacity
    first.pack.capacity = measured["slots"]
    return {
        "slots": measured["slots"],
        "why": f"{measured['why']}; measured {measured['date']}",
        "rates": measured["rates"],
    }


def _slots_file(space: SearchSpace, first: Session, where: str) -> Path:
    """Return the cache file of a measurement; its name is a hash of everything the rates depend on."""
    import torch

    name, base = space.bases[0]
    decides = [name, sorted(base.items()), _start_points(space), space.max_slots, socket.gethostname(), where]
    decides += [lungtune.__version__, torch.__version__, [field.name for field in first.family.fields]]
    digest = hashlib.sha256(json.dumps(decides, default=repr).encode()).hexdigest()
    return paths.cache() / "slots" / f"{name}-{digest[:16]}.json"


def _references(space: SearchSpace, first: Session) -> Mapping[str, Mapping[str, float]]:
    """Return baseline scores that need a model, such as those of an untrained generator.

    Uses the last start point, which is chosen for this base.
    """
    with stage("Scoring the baselines"):
        return first.references(_start_points(space)[-1])


def _start_points(space: SearchSpace) -> list[Mapping[str, Any]]:
    return [space.configuration({**space.fixed, **start}).params for start in space.start or ({},)]
