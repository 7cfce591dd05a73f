"""Export of a study to a storage of Optuna's: one file that ``optuna.load_study`` and optuna-dashboard open."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from lungtune import optuna_study
from lungtune.core.io import stage, write_atomic
from lungtune.core.study import Study
from lungtune.core.trial import History
from lungtune.errors import StudyError

SUFFIXES = (".db", ".log", ".journal")
"""Of the file: an SQLite database, else the journal of Optuna's ``JournalFileBackend``."""


def export(study: str, path: Path) -> int:
    """Write a study, which may still be running, as Optuna's; see ``optuna_study.for_storage``.

    Args:
        study: name of the study, and of the study in the storage.
        path: the file; it must not exist, its folder is created. It is whole or not there.

    Returns:
        The number of trials.

    Raises:
        StudyError: there is no such study, or the file exists, has another suffix or can't be written.
    """
    if path.suffix not in SUFFIXES:
        raise StudyError(f"--optuna must name a file that ends in {', '.join(SUFFIXES)}, but got '{path}'.")
    if path.exists() or path.is_symlink():
        raise StudyError(f"--optuna must name a file that does not exist, but {path} does; remove it or name another.")
    history = Study.open(study).history()
    # Optuna writes in a folder of its own: its locks need a local file system, its URLs a plain path.
    with tempfile.TemporaryDirectory(prefix="lungtune-optuna-") as folder, stage(f"Writing {path}"):
        draft = Path(folder) / f"study{path.suffix}"
        _write(history, study, draft)
        try:
            write_atomic(path, draft.read_bytes())
        except OSError as error:
            raise StudyError(f"{path} must be writable, but: {error.strerror}.") from error
    return len(history.trials)


def url(path: Path) -> str:
    """Return what optuna-dashboard takes for a file that :func:`export` wrote."""
    return f"sqlite:///{path}" if path.suffix == ".db" else str(path)


def storage(path: Path) -> BaseStorage:
    """Open a file that :func:`export` wrote, or begin one; the suffix says which storage it is."""
    return RDBStorage(url(path)) if path.suffix == ".db" else JournalStorage(JournalFileBackend(str(path)))


def _write(history: History, name: str, draft: Path) -> None:
    """Write all of a study to a new file."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = storage(draft)
    try:
        exported = optuna_study.empty(history.objective, name=name, storage=opened)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            exported.set_metric_names([history.objective.metric])
        for key, value in optuna_study.study_attributes(history).items():
            exported.set_user_attr(key, value)
        for record in optuna_study.for_storage(history):
            exported.add_trial(record)
    finally:
        optuna.logging.set_verbosity(verbosity)
        if isinstance(opened, RDBStorage):
            opened.remove_session()
            opened.engine.dispose()
