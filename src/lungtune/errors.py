"""Exceptions that lungtune raises on purpose.

LungtuneError
├── UserError            a mistake the user can correct: one sentence, exit code 2
│   ├── SpaceError       a search space or recipe file, a parameter, ``--set``
│   ├── DataError        a data source, a split, an image
│   ├── WeightsError     pretrained weights that are not available
│   └── StudyError       a study that is missing, held by another process, or finished
├── MachineError         a disk, file system or device failed: what is written stays usable, exit code 3
├── TrialError           one trial failed (``reason``: nan, oom, error, report, lost); the study continues
└── CheckpointError      a checkpoint is truncated or damaged; an older one may serve
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

STOPPED = 3
"""Exit code of a command that was stopped and can go on: by a signal, its time budget, or a fault of the machine."""


class LungtuneError(Exception):
    """Base of all errors raised on purpose."""


class UserError(LungtuneError):
    """A mistake the user can correct.

    The message is one clear sentence or several: what must hold, what was got, how to correct it.
    """


class SpaceError(UserError):
    """A search space, a recipe or a setting is wrong."""


class DataError(UserError):
    """The data cannot be used as it is."""


class WeightsError(UserError):
    """Pretrained weights are not available."""


class StudyError(UserError):
    """A study is missing, held by another process, or not in the wanted state."""


class MachineError(LungtuneError):
    """A disk, file system or device failed; the command can go on where it stopped once that is mended."""


class TrialError(LungtuneError):
    """One trial failed. ``reason`` is one of nan, oom, error, report, lost."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[TrialError], tuple[str, str]]:
        """Pickle both arguments: the error crosses processes."""
        return type(self), (self.reason, str(self))


class CheckpointError(LungtuneError):
    """A checkpoint is truncated or damaged."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known word closest to ``word``, or the only one that has it as a part.

    Else what is known.
    """
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    holding = [option for option in options if word in option.split("_")]
    if len(holding) == 1:
        return f" Did you mean '{holding[0]}'?"
    return f" Known: {', '.join(options)}." if options else ""
