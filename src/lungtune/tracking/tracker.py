"""Tracker thread: follows a study's journal and delivers it to MLflow.

The search only appends to its journal; it never waits for the tracker. Events that MLflow misses are delivered by the
next tracker or by :func:`sync`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungtune.core.io import Lock, write_atomic
from lungtune.errors import LungtuneError, StudyError
from lungtune.tracking import charts, location, store
from lungtune.tracking.projection import Projection
from lungtune.tracking.store import Unreachable
from lungtune.tracking.tail import Rewritten, Tail
from lungtune.tracking.writer import Forgotten, Writer

POLL = 0.5
"""Seconds between two reads of the journal."""

BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before the next try while MLflow can't be reached."""

CURSOR_EVERY = 5.0
"""Seconds between two writes of the cursor file, and one more per ``RUNS_A_SECOND`` runs; losing some costs a little
repeated work, nothing else."""

RUNS_A_SECOND = 200

_HEADLESS = "its journal does not begin with the study"


@dataclass(frozen=True)
class Delivery:
    """Progress of the tracker. ``undelivered`` counts journal events that MLflow does not hold yet."""

    undelivered: int
    uri: str
    problem: str = ""
    refused: int = 0

    def __bool__(self) -> bool:
        return self.undelivered == 0 and not self.problem

    @property
    def sentence(self) -> str:
        """One sentence for the user; empty when all is well."""
        if self:
            return ""
        why = f" ({self.problem})" if self.problem else ""
        return f"{self.undelivered} events are not in MLflow yet{why}; nothing is lost, the next start delivers them."


class Tracker:
    """Delivers one study's journal to MLflow in a daemon thread."""

    def __init__(self, study_folder: Path, uri: str | None = None, *, replay: bool = False) -> None:
        """Create a tracker; it does nothing before :meth:`start`.

        Args:
            study_folder: the study; its ``journal.jsonl`` need not exist yet.
            uri: MLflow tracking URI; ``MLFLOW_TRACKING_URI`` or the local store without one.
            replay: ignore the cursor and send everything again; MLflow's content is the same afterwards.
        """
        self.folder = Path(study_folder)
        self.uri = uri or location.tracking_uri()
        self._replay = replay
        self._tail = Tail(self.folder / "journal.jsonl")
        self._projection = Projection()
        self._writer: Writer | None = None
        self._problem = ""
        self._known: Mapping[str, Any] | None = None
        """What a writer had sent before the journal was read again."""
        self._delivered = 0
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._saved = 0.0
        self._unsaved = False
        self._thread = threading.Thread(target=self._guarded, name="lungtune-tracking", daemon=True)

    def start(self) -> Tracker:
        """Begin to deliver, in the background; once is enough."""
        if self._thread.ident is None:
            self._thread.start()
        return self

    def stop(self, timeout: float = 30.0) -> Delivery:
        """Deliver the rest, for at most ``timeout`` seconds, and return the progress."""
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return self.state()

    def state(self) -> Delivery:
        """Return the tracker's progress."""
        behind = self._tail.behind()  # first: lines read meanwhile are counted twice rather than not at all
        undelivered = behind + self._tail.lines - self._delivered
        refused = len(self._writer.refused) if self._writer else 0
        return Delivery(max(0, undelivered), location.without_password(self.uri), self._problem, refused)

    def _guarded(self) -> None:
        try:
            self._run()
        except LungtuneError as error:
            self._problem = str(error)
        except Exception as error:  # no error of MLflow may stop the search
            self._problem = f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        while not self._projection.ready:
            if not self._read() and self._pause(POLL):
                self._read()
                if not self._projection.ready:
                    self._problem = _HEADLESS if self._tail.lines else ""
                    return
        lock = Lock(self.folder / "tracking.lock")
        if not self._acquire(lock):
            self._problem = f"{lock.holder()} is delivering this study"
            return
        try:
            self._follow()
        finally:
            lock.release()

    def _follow(self) -> None:
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of errors that are handled
        failures = 0
        while True:
            stopping = self._stopping.is_set()
            more = self._read()
            try:
                if self._projection.ready:
                    self._deliver()
                if stopping and not more:
                    if self._writer is not None:
                        self._finish(self._writer)
                    else:  # it was cut to nothing
                        self._problem = _HEADLESS
                    return
                failures, self._problem = 0, ""
                if not more:
                    self._pause(POLL)
                continue
            except Forgotten:
                self._begin_again()
                continue
            except StudyError as error:
                self._problem = str(error)
                if self._stopping.is_set():  # waiting does not mend it
                    return
            except Unreachable as error:
                self._problem = f"{location.without_password(self.uri)} {self._trouble(error)}"
            wait = BACKOFF[min(failures, len(BACKOFF) - 1)]
            failures += 1
            if not self._stopping.is_set():
                self._pause(wait)
            elif time.monotonic() + wait >= self._deadline:
                self._save(force=True)
                return
            else:
                time.sleep(wait)

    def _deliver(self) -> None:
        if self._writer is None:
            while self._read():  # the writer deletes what the journal does not have
                pass
            writer = Writer(store.client(self.uri), self.uri)
            writer.attach(self._projection, self._cursor())
            self._writer, self._known = writer, None
            if self._replay and not driver_lives(self.folder, *self._projection.driver):
                self._projection.abandon("the driver ended without a word; resume it")
        if self._projection.changed:
            self._writer.deliver(self._projection)
            self._unsaved = True
            self._count()
        self._save()

    def _begin_again(self, known: Mapping[str, Any] | None = None) -> None:
        """Read the journal from its beginning; what was sent is compared with it."""
        self._known = self._writer.cursor() if known is None and self._writer is not None else known
        self._tail, self._projection, self._writer = Tail(self._tail.path), Projection(), None
        self._count()

    def _trouble(self, error: Unreachable) -> str:
        text = _first_line(error).replace(self.uri, location.without_password(self.uri))
        return f"takes nothing now: {text}" if location.sqlite_path(self.uri) else f"can't be reached: {text}"

    def _finish(self, writer: Writer) -> None:
        """The last round: doubles that a lost answer may have left, files, charts."""
        if writer.troubled:
            writer.attach(self._projection, writer.cursor())
            writer.deliver(self._projection)
            self._count()
        self._problem = ""
        self._save(force=True)
        if not (writer.put_files(self._projection) and charts.deliver(self.folder, self._projection, writer)):
            self._problem = next(reversed(writer.refused.values()), "files could not be stored")
        self._save(force=True)

    def _read(self) -> bool:
        try:
            events = self._tail.read()
        except Rewritten:
            self._begin_again({})
            return True
        for event in events:
            self._projection.feed(event)
        self._count()
        return bool(events)

    def _count(self) -> None:
        """Events delivered = lines read less those that runs still wait for."""
        sent = self._writer.sent if self._writer else {}
        waiting = sum(
            self._projection.events(key) - (sent[key].events if key in sent else 0) for key in self._projection.changed
        )
        self._delivered = self._tail.lines - waiting

    def _pause(self, seconds: float) -> bool:
        return self._stopping.wait(seconds)

    def _acquire(self, lock: Lock) -> bool:
        while not lock.try_acquire():
            if self._stopping.is_set() and time.monotonic() + 0.2 > self._deadline:
                return False
            time.sleep(0.2)
        return True

    def _cursor(self) -> dict[str, Any]:
        if self._known is not None:
            return dict(self._known)
        if self._replay:
            return {}
        try:
            cursor = json.loads((self.folder / "tracking.json").read_text())
            same = cursor["study_id"] == self._projection.study_id and cursor["uri"] == _fingerprint(self.uri)
            return cursor if same and isinstance(cursor, dict) else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def _save(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self._writer is None or not (force or self._unsaved):
            return
        if not force and now - self._saved < CURSOR_EVERY + len(self._writer.sent) / RUNS_A_SECOND:
            return
        self._saved, self._unsaved = now, False
        head = {"schema": 1, "study_id": self._projection.study_id, "uri": _fingerprint(self.uri)}
        with suppress(OSError):  # a full disk: the next tracker repeats some work
            write_atomic(self.folder / "tracking.json", json.dumps({**head, **self._writer.cursor()}).encode())


def sync(study_folder: Path, uri: str | None = None, timeout: float = 600.0) -> Delivery:
    """Deliver a study's whole journal, now, and wait for it.

    Raises:
        StudyError: there is no such study.
    """
    journal = Path(study_folder) / "journal.jsonl"
    if not journal.is_file():
        raise StudyError(f"there is no study in {study_folder}: {journal.name} is missing.")
    return Tracker(study_folder, uri, replay=True).start().stop(timeout)


def driver_lives(folder: Path, pid: int, host: str) -> bool:
    """True if a process drives a study.

    Args:
        folder: of the study.
        pid: of the last driver.
        host: of the last driver.
    """
    if not pid:
        return False
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # another user's
    lock = Lock(folder / "driver.lock")  # the process id may be another program's by now
    if not lock.path.exists():
        return False
    try:
        free = lock.try_acquire()
    except OSError:
        return True
    if free:
        lock.release()
    return not free


def _fingerprint(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:16]  # a URI may hold a password


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
