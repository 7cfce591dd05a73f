"""Opens a study's training sessions on this process's device, with as many slots as measured here."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune import catalog
from lungtune.core import params as parameters
from lungtune.core.io import stage
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.search import study_data

if TYPE_CHECKING:
    from lungtune.engine.session import Session


@dataclass(frozen=True)
class DeviceSession:
    """What trains a study's trials on one device.

    Attributes:
        sessions: ``engine.session.Sessions``, or a stand-in with its ``start``, ``leave``, ``step`` and ``runs``.
        about: ``slots`` (trials at a time), ``why`` so many, ``rates`` measured, ``device`` and ``node`` by name.
        references: scores on validation that trials are compared with; empty where none.
    """

    sessions: Any
    about: Mapping[str, Any]
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def open_session(folder: Path, threads: int) -> DeviceSession:
    """Open the session of the study's first base; those of further bases are opened when a trial first needs them.

    Args:
        folder: of the study, begun.
        threads: cores this process may use.

    Raises:
        UserError: the weights or the images cannot be had here, or a user's own family breaks the contract.
    """
    with stage("Importing torch"):
        import torch

        from lungtune.engine.session import Sessions, device

    torch.set_num_threads(threads)
    study = Study(folder)
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])
    bank = study_data.reopen_bank(history)
    sessions = Sessions(
        space,
        catalog.family,
        lambda fields, size: study_data.load(study.split_path, fields, size, bank=bank),
        slots=max(1, space.slots),
    )
    name, base = space.bases[0]
    with catalog.blamed(name):
        with stage("Opening the images"):
            first = sessions.on(name, base)
        if catalog.is_own(name):
            with stage("Rehearsing the family on four cases"):
                _rehearse(space, first)
        told = torch.cuda.get_device_name() if device() == "cuda" else f"CPU, {threads} thread(s)"
        about = {"node": socket.gethostname(), "device": told, **_slots(space, first)}
        return DeviceSession(sessions, about, {} if history.baselines else _references(space, first))


def _rehearse(space: SearchSpace, first: Session) -> None:
    """Refuse a family whose methods return what they must not; a session measures and trains with them."""
    import numpy as np

    from lungtune.engine import rehearsal

    train = first.dataset.train
    params = parameters.build(first.family.Params, _start_points(space)[0])
    rows = np.unique(np.linspace(0, len(train) - 1, rehearsal.CASES, dtype=int))  # classes stand one after another
    rehearsal.rehearse(first.pack, params, train.select(rows))


def _slots(space: SearchSpace, first: Session) -> dict[str, Any]:
    """Return ``slots``, ``why`` and ``rates``: as set, one where nothing is shared, else measured."""
    if space.slots:
        return {"slots": space.slots, "why": "set", "rates": []}
    if len(space.bases) > 1:
        return {"slots": 1, "why": "trials of different bases cannot share steps", "rates": []}
    if not first.family.packs:
        return {"slots": 1, "why": "each trial trains a whole network: there is nothing to share", "rates": []}
    with stage("Measuring how many trials train fastest together (slots)"):
        found = first.fit(space.max_slots, _start_points(space))
    return {"slots": found.slots, "why": found.why, "rates": [asdict(rate) for rate in found.rates]}


def _references(space: SearchSpace, first: Session) -> Mapping[str, Mapping[str, float]]:
    """Return scores that need a model, such as those of an untrained generator.

    With the last start point: the one chosen for this base.
    """
    with stage("Scoring the baselines"):
        return first.references(_start_points(space)[-1])


def _start_points(space: SearchSpace) -> list[Mapping[str, Any]]:
    return [space.configuration({**space.fixed, **start}).params for start in space.start or ({},)]
