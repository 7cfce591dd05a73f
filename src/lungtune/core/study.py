"""Study on disk: one folder, one journal, at most one driver at a time."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lungtune.core import journal, migration, paths
from lungtune.core.io import Lock, private_folder
from lungtune.core.space import SearchSpace
from lungtune.core.trial import History
from lungtune.errors import StudyError, did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Study:
    """``studies/<name>/``: journal.jsonl, split.json, checkpoints/<trial>/, ledger.jsonl, summary.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: Lock | None = None
        self._journal: journal.Journal | None = None

    @property
    def name(self) -> str:
        """The study's name: its folder's."""
        return self.folder.name

    @property
    def journal_path(self) -> Path:
        """The record everything else is rebuilt from."""
        return self.folder / "journal.jsonl"

    @property
    def split_path(self) -> Path:
        """The split manifest."""
        return self.folder / "split.json"

    @property
    def summary_path(self) -> Path:
        """The machine-readable result."""
        return self.folder / "summary.json"

    @property
    def ledger_path(self) -> Path:
        """Every opening of the locked test set."""
        return self.folder / "ledger.jsonl"

    def checkpoints(self, trial: int, segment: int = 0) -> Path:
        """Return the folder of one trial's checkpoints; ``segment`` is the number of perturbations before them."""
        folder = self.folder / "checkpoints" / f"{trial:04d}"
        return folder / f"segment-{segment}" if segment else folder

    @staticmethod
    def names() -> list[str]:
        """Return the names of all studies."""
        return sorted(path.parent.name for path in paths.studies().glob("*/journal.jsonl"))

    @classmethod
    def open(cls, name: str) -> Study:
        """Return the study ``name``.

        Raises:
            StudyError: there is none, or its journal does not begin with the study.
        """
        study = cls(paths.studies() / name)
        if not _NAME.fullmatch(name) or not study.journal_path.is_file():
            raise StudyError(f"there is no study '{name}' in {paths.studies()}.{did_you_mean(name, cls.names())}")
        if not study.history().study:
            raise StudyError(
                f"the study '{name}' was interrupted before it began and holds nothing; "
                f"delete {study.folder} or choose another --study name."
            )
        return study

    @classmethod
    def new(cls, name: str | None, space: str) -> Study:
        """Return a study that does not exist yet; without a name, ``<space>-<n>`` is chosen. Nothing is written.

        Raises:
            StudyError: the name is taken or not a plain file name.
        """
        if name is None:
            number = 1
            while (paths.studies() / f"{space}-{number}").exists():
                number += 1
            name = f"{space}-{number}"
        if not _NAME.fullmatch(name):
            raise StudyError(f"--study must be letters, digits, '.', '_' or '-' (at most 80), but got '{name}'.")
        study = cls(paths.studies() / name)
        if study.journal_path.exists() and study.history().study:
            raise StudyError(
                f"the study '{name}' exists already. Add --resume to go on with it (and --trials N to extend it), "
                f"or choose another --study name."
            )
        return study

    def history(self) -> History:
        """Replay the journal."""
        return History(journal.read(self.journal_path))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock a new study for this process; on an error in the ``with`` block, its folder is deleted."""
        self.acquire()
        try:
            yield
        except BaseException:
            self.release()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def acquire(self) -> None:
        """Lock the study for this process, creating its folder if missing, and open its journal for writing.

        Raises:
            StudyError: another process drives it.
        """
        if not self.try_acquire():
            holder = Lock(self._lock_path).holder()
            raise StudyError(f"the study '{self.name}' is held by {holder}; wait for it or stop it first.")

    @property
    def _lock_path(self) -> Path:
        return self.folder / "driver.lock"

    def try_acquire(self) -> bool:
        """Do as :meth:`acquire`, but return False where another process drives the study.

        Raises:
            StudyError: the folder is not writable.
        """
        try:
            private_folder(self.folder)
        except OSError as error:
            raise StudyError(f"{self.folder} must be writable, but: {error.strerror}.") from error
        lock = Lock(self._lock_path)
        try:
            free = lock.try_acquire()
        except OSError as error:
            raise StudyError(f"{self.folder} must be writable, but: {error.strerror}.") from error
        if not free:
            return False
        self._lock = lock
        self._journal = journal.Journal(self.journal_path)
        self.healed = self._journal.healed
        return True

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event to the journal; :meth:`acquire` first."""
        if self._journal is None:
            raise StudyError(f"the study '{self.name}' is not held by this process.")
        return self._journal.append(event, **fields)

    def begin(self, space: SearchSpace, *, data: Mapping[str, Any], seed: int, about: Mapping[str, Any]) -> None:
        """Write the journal's first event: space, data, seed, and the run environment in ``about``."""
        if self.history().study:
            raise StudyError(f"the study '{self.name}' was begun by another process just now; choose another --study.")
        rungs = list(space.fidelity.rungs)
        resolved = {**space.to_dict(), "rungs": rungs}
        self.append(
            "study",
            schema=migration.SCHEMA,
            name=self.name,
            id=uuid.uuid4().hex,
            space=resolved,
            data=data,
            seed=seed,
            **about,
        )

    def discard(self) -> None:
        """Delete the study's folder; :meth:`acquire` first, :meth:`release` afterwards."""
        shutil.rmtree(self.folder)

    def release(self) -> None:
        """Close the journal and release the lock."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
