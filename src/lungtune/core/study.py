"""Study on disk: one folder, one journal, at most one driver at a time.

Three things keep a second driver out: the lock ``driver.lock``; the process that the journal's last ``open`` names,
where no ``stop`` follows it and it still runs; and, where that process can't be seen from here, the journal's time of
modification, which its writer sets every few seconds. So a deleted lock file, and one that does not reach across
machines, admit nobody.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lungtune.core import contained, environment, journal, migration, paths
from lungtune.core.io import Lock, log_stderr, private_folder
from lungtune.core.space import SearchSpace
from lungtune.core.trial import History
from lungtune.errors import LungtuneError, StudyError, did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

BEAT = 3.0
"""Seconds after which the holder of a study touches its journal again."""

WATCH = 4 * BEAT
"""Seconds for which the journal of a driver on another machine is watched."""


def _check_writable(folder: Path) -> None:
    """Check that a folder can be written, or made; nothing stays.

    Raises:
        StudyError: it can't.
    """
    present = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".lungtune-", dir=present))
    except OSError as error:
        raise StudyError(
            f"{folder} must be a folder that can be written, but: {error.strerror}. LUNGTUNE_HOME moves it."
        ) from error


class Study:
    """``studies/<name>/``: journal.jsonl, split.json, checkpoints/<trial>/, ledger.jsonl, summary.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: Lock | None = None
        self._journal: journal.Journal | None = None
        self._holder = ""
        self._begun = self._driven = False
        self._there: frozenset[str] | None = None
        self._left = threading.Event()

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
            StudyError: there is none, its journal does not begin with the study, or a link leads out of its folder.
        """
        study = cls(paths.studies() / name)
        if not _NAME.fullmatch(name) or not study.journal_path.is_file():
            raise StudyError(f"there is no study '{name}' in {paths.studies()}.{did_you_mean(name, cls.names())}")
        study.check_links()
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
            StudyError: the name is taken or not a plain file name, or the folder of studies can't be written.
        """
        _check_writable(paths.studies())
        if name is None:
            space = re.sub(r"[^A-Za-z0-9._-]", "-", space)[:60].lstrip("._-") or "study"
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

    @classmethod
    def of_id(cls, study_id: str, name: str = "") -> Study | None:
        """Return the study with an id, whatever name its folder has now; None if it is not here.

        Args:
            study_id: the id.
            name: of its folder when it began; looked at first.

        Raises:
            StudyError: the journal in the folder of that name can't be read.
        """
        names = cls.names()
        for each in sorted(names, key=lambda other: other != name):
            study = cls(paths.studies() / each)
            if each == name:
                study.history()
            if study.first().get("id") == study_id:
                return study
        return None

    def first(self) -> dict[str, Any]:
        """Return the journal's first event as it was written; empty if there is none that can be read."""
        try:
            with open(self.journal_path, "rb") as file:
                event = json.loads(file.readline())
        except (OSError, ValueError):
            return {}
        return event if isinstance(event, dict) and event.get("event") == "study" else {}

    def check_links(self) -> None:
        """Check that all files of the study lie in its folder, which itself may be a link.

        Raises:
            StudyError: a link leads out of it.
        """
        if (link := contained.link_out(self.folder)) is not None:
            raise StudyError(
                f"{link} leads out of the study's folder, in which lungtune reads and writes; move what it names "
                "there, or the whole study to where it lies, with a link to it in studies/."
            )

    def history(self) -> History:
        """Replay the journal.

        Raises:
            StudyError: the journal can't be read, or an event does not fit those before it.
        """
        history = History()
        for number, event in enumerate(journal.read(self.journal_path), start=1):
            try:
                history.apply(event)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise StudyError(
                    f"{self.journal_path}: event {number} ({event['event']}) must follow from those before it, but "
                    f"does not ({type(error).__name__}: {error}): lines are missing or damaged. Put the journal back "
                    f"from a copy."
                ) from error
        return history

    @contextmanager
    def claimed(self, space: str | None = None) -> Iterator[None]:
        """Lock a new study for this process, which begins it in the ``with`` block.

        On an error in the block, what this process made of the folder is deleted; what was there before stays.

        Args:
            space: take the next free name ``<space>-<n>`` where another process took this one meanwhile.

        Raises:
            StudyError: another process holds the study, or began it meanwhile.
        """
        while space and not self._free():
            self.folder = Study.new(None, space).folder
        self.acquire()
        free = False
        try:
            self._check_new()
            free = True
            yield
        except BaseException:
            if free and not self._begun:
                with suppress(OSError):
                    self.discard()
            self.release()
            raise

    def _check_new(self) -> None:
        if self.history().study:
            raise StudyError(
                f"the study '{self.name}' was begun by another process just now; choose another --study name."
            )

    def _free(self) -> bool:
        """Acquire the study if nobody has it and it has not begun; return whether that succeeded."""
        if not self.try_acquire():
            return False
        if self.history().study:
            self.release()
            return False
        return True

    def acquire(self) -> None:
        """Lock the study for this process, creating its folder if missing, and open its journal for writing.

        Raises:
            StudyError: another process drives it, or the folder is not writable.
        """
        if self._journal is None and not self.try_acquire():
            raise StudyError(f"the study '{self.name}' is held by {self._holder}; wait for it or stop it first.")

    @property
    def _lock_path(self) -> Path:
        return self.folder / "driver.lock"

    def try_acquire(self) -> bool:
        """Do as :meth:`acquire`, but return False where another process drives the study.

        Raises:
            StudyError: the folder is not writable, or the journal can't be read.
        """
        try:
            existed = self.folder.exists()
            private_folder(self.folder)
            there = frozenset(os.listdir(self.folder)) if existed else None
            lock = Lock(self._lock_path)
            if not lock.try_acquire():
                self._holder = lock.holder()
                return False
        except OSError as error:
            where = error.filename or self.folder
            raise StudyError(f"{where} must be writable to hold the study, but: {error.strerror}.") from error
        self._lock = lock
        try:
            self._holder = self._driver()
            if self._holder:
                self.release()
                return False
            self._journal = journal.Journal(self.journal_path)
        except OSError as error:
            self.release()
            raise StudyError(f"{self.journal_path} must be writable, but: {error.strerror}.") from error
        except BaseException:
            self.release()
            raise
        self.healed, self._there = self._journal.healed, there
        self._left = threading.Event()
        threading.Thread(target=_beat, args=(self._journal, self._left), daemon=True).start()
        return True

    def _driver(self) -> str:
        """Return who drives the study, by its journal; empty if nobody does."""
        events = journal.read(self.journal_path)
        last = next((each for each in reversed(events) if each["event"] in ("open", "stop")), None)
        if last is None or last["event"] == "stop" or "pid" not in last:
            return ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(last["time"])))
        holder = f"process {last['pid']} on {last.get('host')} since {since}"
        runs = environment.runs(last)
        if runs is None:
            log_stderr(f"{holder} left no word: watching for {WATCH:g} s whether it still drives '{self.name}' ...")
            runs = _beats(self.journal_path)
        return holder if runs else ""

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event to the journal; :meth:`acquire` first."""
        if self._journal is None:
            raise StudyError(f"the study '{self.name}' is not held by this process.")
        written = self._journal.append(event, **fields)
        if event in ("open", "stop"):
            self._driven = event == "open"
        return written

    def begin(self, space: SearchSpace, *, data: Mapping[str, Any], seed: int, about: Mapping[str, Any]) -> None:
        """Write the journal's first event: space, data, seed, and the run environment in ``about``."""
        self._check_new()
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
        self._begun = True

    def discard(self) -> None:
        """Delete the study; :meth:`acquire` first, :meth:`release` afterwards. What was in its folder before stays."""
        if self._journal is None or not self._journal.in_place:
            return
        if self._there is None:
            # renamed first: a driver that begins a study of this name finds none of its files
            gone = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.gone")
            os.rename(self.folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
            return
        for path in self.folder.iterdir():
            if path.name not in self._there:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def release(self) -> None:
        """Close the journal and release the lock; a run that opened it and wrote no ``stop`` gets one."""
        self._left.set()
        if self._journal is not None:
            if self._driven:
                with suppress(LungtuneError):
                    self.append("stop", why="error", **environment.process())
            self._journal.close()
            self._journal, self._driven = None, False
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _beat(book: journal.Journal, left: threading.Event) -> None:
    """Touch a journal until ``left`` is set."""
    while not left.wait(BEAT):
        book.touch()


def _beats(path: Path) -> bool:
    """Watch a journal; return whether somebody touches it. It is opened anew each time, which NFS answers afresh."""

    def touched() -> int:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns

    before, end = touched(), time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(BEAT / 6)
        if touched() != before:
            return True
    return False
