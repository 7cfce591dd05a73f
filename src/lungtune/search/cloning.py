"""Clones: trials that a user adds to a study, with another trial's parameters but for some changes.

A clone is a request in the study's folder, ``requests/<id>/``: ``request.json``, and in ``start/`` the checkpoint that
it goes on from. The holder of the study takes it in: a running search between two reports, or the process that asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lungtune import catalog
from lungtune.core import imbalance, synthetic
from lungtune.core import params as parameters
from lungtune.core.family import Family
from lungtune.core.io import fsync_folder, write_atomic
from lungtune.core.lineage import Donor, Lineage, Segment, Stretch
from lungtune.core.resource import TOLERANCE
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.synonyms import meant
from lungtune.core.transfer import blocking
from lungtune.core.trial import CLONE, History, State, Trial
from lungtune.errors import CheckpointError, SpaceError, StudyError
from lungtune.search import study_data

WAIT = 15.0
"""Seconds that a request waits for the search that holds the study."""

POLL = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True)
class Request:
    """Trial that a user asks for.

    Attributes:
        id: unique; requests are taken in the order of their ids.
        clone_of: number of the trial that it is a clone of.
        params: every parameter.
        donor: checkpoint it goes on from; None: it begins with fresh weights.
    """

    id: str
    clone_of: int
    params: Mapping[str, Any]
    donor: Donor | None

    @classmethod
    def read(cls, folder: Path) -> Request:
        """Read a request.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        data = json.loads((folder / "request.json").read_text())
        donor = Donor.from_dict(data["donor"]) if data["donor"] else None
        return cls(folder.name, int(data["clone_of"]), dict(data["params"]), donor)


@dataclass(frozen=True)
class Plan:
    """A clone before it is requested.

    Attributes:
        request: the request.
        changes: parameters that differ from the original's.
        why: reason why it does not go on from a checkpoint; empty where it does, or where that was asked for.
    """

    request: Request
    changes: Mapping[str, Any]
    why: str = ""


def plan(study: Study, number: int, settings: Mapping[str, Any], from_scratch: bool = False) -> Plan:
    """Return the clone of a trial; nothing is written.

    It goes on from the newest sound checkpoint before the full length where all changes leave it loadable: the newest,
    and not the best, because it continues the schedule where the trial stands, and because the best was chosen by
    noise of the validation score among others.

    Args:
        study: begun.
        number: of the trial.
        settings: new values of parameters.
        from_scratch: train it from the beginning.

    Raises:
        StudyError: there is no such trial, an equal one exists, or there is no checkpoint to go on from.
        SpaceError: a parameter is unknown or does not take the value, or nothing changes.
        DataError: the study's split is missing, damaged, or not the one that it began with.
    """
    history = study.history()
    if number not in history.trials:
        known = f"its trials are 0 to {len(history.trials) - 1}" if history.trials else "it has none yet"
        raise StudyError(f"the study '{study.name}' has no trial {number}; {known}.")
    trial = history.trials[number]
    study_data.check_split(study, history)
    space = SearchSpace.from_dict(history.study["space"])
    family = catalog.family(space.configuration(trial.params).family, space.objective.task)
    changes = _changes(trial, settings, space, family, history)
    params = {**trial.params, **changes}
    why, donor = "", None
    names = blocking(family, trial.params, params)
    if names:
        decide = "decides" if len(names) == 1 else "decide"
        why = f"{', '.join(names)} {decide} what is trained, so no checkpoint fits"
    elif not from_scratch:
        donor = _donor(study, history, trial, space)
    request = Request(f"{time.time_ns():020d}-{os.getpid()}", number, params, donor)
    if (same := _same(history, space, request)) is not None:
        raise StudyError(
            f"trial {same.number} of the study '{study.name}' is this clone already; change another value."
        )
    return Plan(request, changes, why)


def _changes(
    trial: Trial, settings: Mapping[str, Any], space: SearchSpace, family: Family[Any, Any], history: History
) -> dict[str, Any]:
    """Return the settings that differ from the trial's own, as the family's types."""
    specs, bases = parameters.specs(family.Params), parameters.specs(family.Base)
    member, name = space.of(trial.params), space.configuration(trial.params).family
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in specs and key not in bases:
            raise SpaceError(f"--set {key}={value}: '{key}' is not a parameter of {name}.{meant(key, specs)}")
        if key in bases and key not in member.axes:
            raise SpaceError(f"--set {key}={value}: {key} is a setting of the base, which all trials of a study share.")
        try:
            values[key] = (specs | bases)[key].check(value)
        except SpaceError as error:
            raise SpaceError(f"--set {key}={value}: {error}") from error
        if key in bases and values[key] not in member.axes[key].choices:  # type: ignore[attr-defined]
            choices = ", ".join(map(str, member.axes[key].choices))  # type: ignore[attr-defined]
            raise SpaceError(f"--set {key}={value}: {key} must be one of those searched ({choices}).")
    defaults = {key: spec.default for key, spec in specs.items()}
    own = {**defaults, **trial.params}
    changes = {key: value for key, value in values.items() if own[key] != value}
    if _identity(space, {**trial.params, **changes}) == _identity(space, trial.params):
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        raise SpaceError(
            f"a clone must differ from trial {trial.number}, but {shown or 'nothing'} changes nothing; "
            f"name another value with --set."
        )
    _check_bank({**trial.params, **changes}, space, history)
    imbalance.weights(str(changes.get(imbalance.WEIGHTING, "none")), history.study["data"]["classes"])
    return changes


def _check_bank(params: Mapping[str, Any], space: SearchSpace, history: History) -> None:
    settings = synthetic.Settings.from_mapping(params)
    if settings.uses_bank and not history.study["data"].get("bank"):
        raise SpaceError(f"{synthetic.RATIO} {settings.ratio:g} needs synthetic images, but the study has no bank.")
    if settings.uses_bank and settings.ratio > synthetic.wanted(space):
        raise SpaceError(
            f"{synthetic.RATIO} must be at most {synthetic.wanted(space):g}, as many images as the study's bank has."
        )


def _donor(study: Study, history: History, trial: Trial, space: SearchSpace) -> Donor:
    """Return the newest sound checkpoint of a trial before the full length."""
    from lungtune.engine import checkpoint

    owner = trial.number if trial.duplicate_of is None else trial.duplicate_of
    for report in reversed(trial.reports):
        if report.checkpoint is None or report.fidelity >= space.fidelity.max - TOLERANCE:
            continue
        with contextlib.suppress(OSError, CheckpointError):
            checkpoint.load(study.folder / report.checkpoint)
            return Donor(owner, report.fidelity, report.checkpoint)
    raise StudyError(
        f"trial {trial.number} must have a checkpoint before {space.fidelity.max:g} passes to go on from, but has none "
        f"(any more); add --from-scratch to train the clone from the beginning."
    )


def _identity(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    return synthetic.canonicalize(space.acting(params))


def _same(history: History, space: SearchSpace, request: Request) -> Trial | None:
    """Return a trial that has not failed and trained, or will train, the same but for its own seed."""
    mine: Lineage = (Segment(request.params, 0),)
    if request.donor is not None:
        before = history.trials[request.donor.trial].lineage_of(request.donor.fidelity, request.donor.checkpoint)
        mine = Stretch.following(request.donor, before, request.params, 0).lineage

    def shape(lineage: Lineage) -> list[Any]:
        *before, last = lineage
        return [*((_identity(space, s.params), s.seed, s.until) for s in before), _identity(space, last.params)]

    others = (trial for trial in history.trials.values() if trial.state is not State.FAIL and not trial.segment)
    return next((trial for trial in others if shape(trial.lineage) == shape(mine)), None)


def ask(study: Study, request: Request) -> None:
    """Write a request, with its checkpoint: the donor may prune its own. It is there as a whole or not at all.

    Raises:
        StudyError: the folder is not writable, or the checkpoint has gone in this moment.
    """
    draft, folder = _folder(study) / f".{request.id}", _folder(study) / request.id
    try:
        draft.mkdir(parents=True)
        if request.donor is not None:
            from lungtune.engine import report_files

            report_files.inherit(study.folder / str(request.donor.checkpoint), draft / "start")
        data = {**asdict(request), "params": dict(request.params)}
        write_atomic(draft / "request.json", json.dumps(data).encode())
        os.rename(draft, folder)
        fsync_folder(folder.parent)
    except (OSError, CheckpointError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise StudyError(f"{folder} could not be written: {getattr(error, 'strerror', None) or error}.") from error


def pending(study: Study) -> list[Request]:
    """Return the requests that were not taken in, oldest first; what can't be read is refused."""
    requests = []
    try:
        folders = sorted(entry.name for entry in os.scandir(_folder(study)) if entry.is_dir() and entry.name[0] != ".")
    except OSError:  # none was ever written
        return []
    for name in folders:
        try:
            requests.append(Request.read(_folder(study) / name))
        except (OSError, ValueError, KeyError, TypeError) as error:
            _refuse(study, name, f"the request {name} must be readable, but is not ({error!r:.100}).")
    return requests


def take(
    study: Study, history: History, space: SearchSpace, request: Request, write: Callable[..., object]
) -> int | None:
    """Journal the trial of a request and return its number; None where it is refused. Done once, however often called.

    Args:
        study: held by this process.
        history: its history, which ``write`` keeps up to date.
        space: what is searched.
        request: one of :func:`pending`.
        write: appends an event to the journal, given its name and fields.
    """
    if request.id in history.requests:
        return history.requests[request.id]
    original = history.trials.get(request.clone_of)
    if original is None or (request.donor is not None and request.donor.trial not in history.trials):
        _refuse(study, request.id, f"the study '{study.name}' has no trial {request.clone_of}.")
        return None
    if (same := _same(history, space, request)) is not None:
        _refuse(study, request.id, f"trial {same.number} of the study '{study.name}' is this clone already.")
        return None
    number = len(history.trials)
    write(
        "trial",
        trial=number,
        params=dict(request.params),
        sampled={name: request.params[name] for name in original.sampled},
        distributions=original.distributions,
        seed=history.study["seed"] + number,
        origin=CLONE,
        sampler_attrs={},
        clone_of=request.clone_of,
        donor=None if request.donor is None else asdict(request.donor),
        request=request.id,
    )
    return number


def place(study: Study, request: Request, number: int) -> bool:
    """Put a journalled clone's checkpoint in its place and remove the request; return False where that fails."""
    start, target = _folder(study) / request.id / "start", study.checkpoints(number)
    try:
        if start.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(start, target)
            fsync_folder(target.parent)
    except OSError:
        return False
    shutil.rmtree(_folder(study) / request.id, ignore_errors=True)
    return request.donor is None or target.is_dir()


def _refuse(study: Study, name: str, why: str) -> None:
    write_atomic(_folder(study) / f"{name}.refused", why.encode())
    shutil.rmtree(_folder(study) / name, ignore_errors=True)


def _folder(study: Study) -> Path:
    return study.folder / "requests"


@dataclass(frozen=True)
class Cloned:
    """Result of a request.

    Attributes:
        plan: what was asked for.
        number: of the trial; None while the search that holds the study has not taken it in.
        running: True if that search trains it; else the study has to be resumed.
    """

    plan: Plan
    number: int | None
    running: bool


def clone(
    name: str, number: int, settings: Mapping[str, Any], from_scratch: bool = False, wait: float | None = None
) -> Cloned:
    """Add a clone of a trial to a study, whether or not a search holds the study.

    Args:
        name: of the study.
        number: of the trial.
        settings: new values of parameters.
        from_scratch: train it from the beginning even where it could go on from a checkpoint.
        wait: seconds to wait for a search that holds the study; by default ``WAIT``.

    Raises:
        StudyError: there is no such study or trial, or no checkpoint to go on from; the clone exists already.
        SpaceError: a parameter is unknown or does not take the value, or nothing changes.
    """
    study = Study.open(name)
    planned = plan(study, number, settings, from_scratch)
    ask(study, planned.request)
    refused = _folder(study) / f"{planned.request.id}.refused"
    until = time.monotonic() + (WAIT if wait is None else wait)
    while True:
        idle = study.try_acquire()
        if idle:
            try:
                _take_all(study)
            finally:
                study.release()
        if refused.exists():
            why = refused.read_text()
            refused.unlink(missing_ok=True)
            raise StudyError(why)
        if not (_folder(study) / planned.request.id).exists():
            return Cloned(planned, study.history().requests[planned.request.id], not idle)
        if time.monotonic() > until:
            return Cloned(planned, None, True)
        time.sleep(POLL)


def _take_all(study: Study) -> None:
    """Take in all requests of a study that this process holds."""
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])

    def write(event: str, **fields: Any) -> None:
        history.apply(study.append(event, **fields))

    for request in pending(study):
        number = take(study, history, space, request, write)
        if number is not None and not place(study, request, number):
            message = "the checkpoint that it was to go on from could not be put in place"
            write("end", trial=number, state=State.FAIL.value, reason="error", message=message)
