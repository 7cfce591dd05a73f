"""Ledger of the test set: who opened it, when, with which recipe, and the result. It opens once per study.

A test part is known by its content (`core.locked_part`), so its openings are counted whatever study, name, seed, home
or folder opens it. The ledger is kept in several files, and what any of them holds counts: the study's (or one beside
the recipe where the study is not on this machine), the home's, the user's cache's, and a hidden one beside the data.
A file that can't be read keeps the test set locked.

Each file is append-only, fsynced JSON lines (the journal's format). Fields of every line: ``event``, ``time`` (unix
seconds), ``date`` (local, readable), ``study`` (the study's id), ``name`` (its name), ``question``
(:func:`question`), ``recipe`` (the recipe's fingerprint), ``file`` (its name), ``opening`` (id). ``opened`` adds
``part``, ``cases``, ``sample`` (`core.locked_part`), ``number`` (of the opening), ``user``, ``pid`` and ``host``; it is
written before a test image is decoded for a model (the search for duplicates has looked at all images, but keeps no
pixel). ``result`` adds ``metrics`` and ``report`` (the folder of the full report). Lines of version 0.1 lack ``name``,
``question``, ``opening``, ``part``, ``cases``, ``sample``, ``number`` and ``user``.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lungtune.core import io, journal
from lungtune.core.locked_part import LockedPart
from lungtune.errors import MachineError, StudyError

_SHOWN = 3
"""Maximum number of an earlier result's metrics, the first of its task, in a refusal."""

_NEEDED = {"opened": ("study", "recipe", "file", "date"), "result": ("study", "recipe", "file", "date", "report")}
_HEAD = b'{"event":"'
NAME = "openings.jsonl"
"""Name of the ledger in the home and in the cache."""

BESIDE = ".lungtune-openings."
"""How the names of ledgers beside the data begin; then the user's name."""


@dataclass(frozen=True)
class Asker:
    """Who asks for the test set.

    Attributes:
        study: the study's id.
        name: the study's name.
        question: result of :func:`question`; empty if unknown.
    """

    study: str
    name: str
    question: str = ""


@dataclass(frozen=True)
class Opening:
    """One opening of a test part.

    Attributes:
        number: 1 for the first of its test part; 0 while unknown.
        entry: its ``opened`` line, or the ``result`` line where that is all there is.
        result: its ``result`` line; None without one.
        part: the test part; None where it is unknown (version 0.1).
        before: earlier openings of the same test part.
    """

    number: int
    entry: Mapping[str, Any]
    result: Mapping[str, Any] | None
    part: LockedPart | None
    before: tuple[Opening, ...] = ()

    @property
    def who(self) -> str:
        """User, machine, study, recipe and date."""
        user = f"{self.entry['user']} on " if self.entry.get("user") else ""
        where = f" by {user}{self.entry['host']}" if self.entry.get("host") else ""
        study = self.entry.get("name") or self.entry["study"]
        return f"on {self.entry['date']}{where} (study {study}, {self.entry['file']})"

    def sentence(self) -> str:
        """Return its number, and who opened the part before."""
        text = f"opening {self.number} of this test part"
        if not self.before:
            return text
        shown = [f"opening {each.number} {each.who}" for each in self.before]
        kept = shown if len(shown) <= _SHOWN else [shown[0], "...", *shown[1 - _SHOWN :]]
        return f"{text}; before: {'; '.join(kept)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report's form: ``number``, ``part``, ``cases``, ``sentence``, ``before`` [{number, date, ...}]."""
        names = ("date", "user", "host", "study", "name", "recipe", "file")
        before = [{"number": e.number, **{n: e.entry[n] for n in names if n in e.entry}} for e in self.before]
        part = {"part": self.part.key, "cases": self.part.cases} if self.part else {}
        return {"number": self.number, **part, "sentence": self.sentence(), "before": before}


@dataclass
class Ledger:
    """Allows one recipe of a study to open its test set, once; numbers the openings of a test part.

    Args:
        path: file to write first: the study's, or one next to the recipe if the study's folder is unavailable.
        asker: the study.
        home: the home's file; written too, and must be writable.
        copies: more files, written where they are writable.
        also: files that are only read.
        part_of: returns the test part of a study, by its id, for lines that do not name one; None if unknown.
        part: the test part; None until it is known.
    """

    path: Path
    asker: Asker
    home: Path | None = None
    copies: Sequence[Path] = ()
    also: Sequence[Path] = ()
    part_of: Callable[[str], LockedPart | None] = lambda study: None
    part: LockedPart | None = None
    _opening: str = field(default="", init=False)

    @property
    def files(self) -> list[Path]:
        """Every file, each once."""
        home = (self.home,) if self.home else ()
        return list(dict.fromkeys((self.path, *home, *self.copies, *self.also)))

    def openings(self) -> list[Opening]:
        """Return all openings in the files, oldest first.

        Raises:
            StudyError: a file can't be read or a line is damaged.
        """
        lines: dict[str, dict[str, dict[str, Any]]] = {}
        for path in self.files:
            for entry in read(path):
                # version 0.1 gave openings no id
                key = str(entry.get("opening") or f"{entry['study']} {entry['recipe']}")
                lines.setdefault(key, {}).setdefault(entry["event"], entry)
        found = []
        for events in lines.values():
            entry = events.get("opened") or events["result"]
            part = LockedPart.from_dict(entry) or self.part_of(str(entry["study"]))
            found.append(Opening(0, entry, events.get("result"), part))
        numbered: list[Opening] = []
        for each in sorted(found, key=lambda opening: float(opening.entry["time"])):
            numbered.append(self._numbered(each, numbered))
        return numbered

    @staticmethod
    def _numbered(opening: Opening, earlier: Sequence[Opening]) -> Opening:
        """Return the opening with its number and those of its test part before it."""
        study, part = opening.entry["study"], opening.part
        before = tuple(
            each for each in earlier if each.entry["study"] == study or (each.part and part and part.same(each.part))
        )
        return replace(opening, number=len(before) + 1, before=before)

    @contextmanager
    def hold(self, recipe: str) -> Iterator[None]:
        """Lock the test set for this process, and verify that ``recipe`` may open it.

        Raises:
            StudyError: it was opened before, or another process is about to open it.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        with ExitStack() as held:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(io.exclusive(lock, self._busy))
            except OSError as error:
                raise self._unwritable(self.path, error) from error
            self.check(recipe)
            yield

    def _busy(self, holder: str) -> StudyError:
        return StudyError(f"the test set of the study '{self.asker.name}' is being opened by {holder}; it opens once.")

    @staticmethod
    def _unwritable(path: Path, error: OSError) -> StudyError:
        return StudyError(
            f"{path} must be writable to open the test set, for that is written down in it, but: {error.strerror}."
        )

    def check(self, recipe: str) -> None:
        """Verify that ``recipe`` may open the test set.

        The one exception to "once": the same recipe may continue if its earlier opening ended without a result.

        Raises:
            StudyError: it was opened before (the message has who, when and the result), or a file can't be read.
        """
        mine = [each for each in self.openings() if self._same_question(each, recipe)]
        done = [each for each in mine if each.result]
        if done:
            last, result = done[-1], done[-1].result or {}
            raise StudyError(
                f"the test set of the study '{last.entry.get('name', self.asker.name)}' was opened on {result['date']} "
                f"by {result['file']}: {_scores(result.get('metrics', {}))} (report: {result['report']}; opening "
                f"{last.number} of this test part{_by(last)}). It opens once; choosing among test scores would make "
                f"them worthless. Leave out --test to retrain without it."
            )
        others = [each for each in mine if each.entry["recipe"] != recipe]
        if others:
            last = others[-1]
            raise StudyError(
                f"the test set of the study '{last.entry.get('name', self.asker.name)}' was opened on "
                f"{last.entry['date']} by {last.entry['file']}, which ended without a result; only that recipe, "
                f"unchanged, may open it again (opening {last.number} of this test part{_by(last)})."
            )

    def _same_question(self, opening: Opening, recipe: str) -> bool:
        """True if an opening is of this study, of a copy of it, or of the very recipe."""
        entry, question = opening.entry, self.asker.question
        known = entry["study"] == self.asker.study or entry["recipe"] == recipe
        return known or bool(question and entry.get("question") == question)

    def opened(self, recipe: str, file: str) -> Opening:
        """Record the opening durably and return it. Test images may be decoded only after this returns.

        Raises:
            StudyError: it was opened since it was checked, or the record can't be written.
        """
        with self._writing():
            self.check(recipe)
            openings = self.openings()
            again = next((each for each in openings if self._same_question(each, recipe)), None)
            identity = again.entry.get("opening") if again else uuid.uuid4().hex
            fields = {"pid": os.getpid(), "host": socket.gethostname(), "user": _user()}
            content = {**self._fields(recipe, file, identity), **(self.part.to_dict() if self.part else {})}
            now = {"event": "opened", "time": time.time(), **content, **fields}
            opening = again or self._numbered(Opening(0, now, None, self.part), openings)
            self._opening = str(identity or "")
            self._append("opened", **content, **fields, number=opening.number)
        return opening

    def result(self, recipe: str, file: str, metrics: Mapping[str, float], report: Path) -> None:
        """Record the result of the opening."""
        fields = self._fields(recipe, file, self._opening)
        with self._writing():
            self._append("result", **fields, metrics=dict(metrics), report=str(report))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        home = self.home or self.path
        with ExitStack() as held:
            try:
                home.parent.mkdir(parents=True, exist_ok=True)
                lock = home.with_name(f".{home.name}.writing")
                held.enter_context(io.waiting(lock, "records an opening of a test set"))
            except OSError as error:
                raise self._unwritable(home, error) from error
            yield

    def _fields(self, recipe: str, file: str, opening: str | None) -> dict[str, Any]:
        about = {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "study": self.asker.study, "name": self.asker.name}
        about |= {"question": self.asker.question, "recipe": recipe, "file": file}
        return {**about, "opening": opening} if opening else about

    def _append(self, event: str, **fields: Any) -> None:
        for path in dict.fromkeys((self.path, *((self.home,) if self.home else ()), *self.copies)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                book = journal.Journal(path)
                try:
                    book.append(event, **fields)
                finally:
                    book.close()
            except OSError as error:
                if path in (self.path, self.home):
                    raise self._unwritable(path, error) from error
            except (StudyError, MachineError):
                if path in (self.path, self.home):
                    raise


def read(path: Path) -> list[dict[str, Any]]:
    """Return the ``opened`` and ``result`` lines of one file; none if it does not exist.

    A last line without its newline was never written whole, so the test set was not opened by it: it is skipped.

    Raises:
        StudyError: the file can't be read, or a line is damaged.
    """
    try:
        entries = journal.read(path)
        tail = path.read_bytes().rpartition(b"\n")[2] if entries or path.exists() else b""
    except (StudyError, OSError) as error:
        raise StudyError(f"the test set stays locked, because its ledger is damaged: {error}") from error
    if not tail.startswith(_HEAD) and not _HEAD.startswith(tail):
        raise StudyError(_damaged(path, "its last line"))
    kept = []
    for number, entry in enumerate(entries, start=1):
        needed = _NEEDED.get(entry["event"])
        if needed is None:
            continue
        if not all(isinstance(entry.get(name), str) for name in needed) or not _is_time(entry.get("time")):
            raise StudyError(_damaged(path, f"line {number}"))
        kept.append(entry)
    return kept


def _damaged(path: Path, line: str) -> str:
    return (
        f"the test set stays locked, because its ledger is damaged: {line} of {path} does not say which recipe opened "
        f"it. Put the file back from a copy, or move the line out of it to go on without."
    )


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def question(first: Mapping[str, Any]) -> str:
    """Return a hash of a journal's first event without the study's id and name: a copy of a study keeps it."""
    content = {key: value for key, value in first.items() if key not in ("id", "name")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def beside(folder: Path) -> tuple[Path, list[Path]]:
    """Return this user's ledger in a data folder, and those that are there."""
    try:
        there = sorted(path for path in folder.iterdir() if path.name.startswith(BESIDE) and path.suffix == ".jsonl")
    except OSError:
        there = []
    return folder / f"{BESIDE}{_user()}.jsonl", there


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in a container
        return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _by(opening: Opening) -> str:
    user, host = opening.entry.get("user"), opening.entry.get("host")
    return f", by {user} on {host}" if user and host else f", on {host}" if host else ""


def _scores(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in list(metrics.items())[:_SHOWN])
