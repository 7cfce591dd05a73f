"""Test-set ledger: records recipe, time and result of each opening of the test set. It opens once per study.

One append-only, fsynced JSON-lines file (the journal's format). Fields of every line: ``event``, ``time`` (unix
seconds), ``date`` (local, readable), ``study`` (the study's id), ``recipe`` (the recipe's fingerprint), ``file`` (its
name). ``opened`` adds ``pid`` and ``host`` and is written before a test image is decoded for a model (the search for
duplicates has looked at all images, but keeps no pixel); ``result`` adds ``metrics`` and ``report`` (the folder of the
full report).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lungtune.core import io, journal
from lungtune.errors import StudyError

_SHOWN = 3
"""Maximum number of an earlier result's metrics, the first of its task, in a refusal."""


class Ledger:
    """Allows one recipe of a study to open its test set, once.

    Args:
        path: file to write: the study's, or one next to the recipe if the study's folder is unavailable.
        study: the study's id. Entries of other studies in the same file do not count.
        name: the study's name, for messages.
        also: further ledgers that may record an opening.
    """

    def __init__(self, path: Path, study: str, name: str, also: Sequence[Path] = ()) -> None:
        self.path = path
        self.study = study
        self.name = name
        self.also = tuple(also)

    def entries(self) -> list[dict[str, Any]]:
        """Return this study's entries, oldest first."""
        entries = [entry for path in dict.fromkeys((self.path, *self.also)) for entry in journal.read(path)]
        return sorted((e for e in entries if e.get("study") == self.study), key=lambda entry: entry["time"])

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
                raise StudyError(
                    f"{self.path} must be writable to open the test set, for that is written down in it, "
                    f"but: {error.strerror}."
                ) from error
            self.check(recipe)
            yield

    def _busy(self, holder: str) -> StudyError:
        return StudyError(f"the test set of the study '{self.name}' is being opened by {holder}; it opens once.")

    def check(self, recipe: str) -> None:
        """Verify that ``recipe`` may open the test set.

        The one exception to "once": the same recipe may continue if its earlier opening ended without a result.

        Raises:
            StudyError: it was opened before; the message has the date and the earlier result.
        """
        entries = self.entries()
        results = [entry for entry in entries if entry["event"] == "result"]
        if results:
            last = results[-1]
            raise StudyError(
                f"the test set of the study '{self.name}' was opened on {last['date']} by {last['file']}: "
                f"{_scores(last['metrics'])} (report: {last['report']}). It opens once; choosing among test scores "
                f"would make them worthless. Leave out --test to retrain without it."
            )
        others = [entry for entry in entries if entry["event"] == "opened" and entry["recipe"] != recipe]
        if others:
            raise StudyError(
                f"the test set of the study '{self.name}' was opened on {others[-1]['date']} by {others[-1]['file']}, "
                f"which ended without a result; only that recipe, unchanged, may open it again."
            )

    def opened(self, recipe: str, file: str) -> None:
        """Record the opening durably. Test images may be decoded only after this returns."""
        self._append("opened", recipe=recipe, file=file, pid=os.getpid(), host=socket.gethostname())

    def result(self, recipe: str, file: str, metrics: Mapping[str, float], report: Path) -> None:
        """Record the result of the opening."""
        self._append("result", recipe=recipe, file=file, metrics=dict(metrics), report=str(report))

    def _append(self, event: str, **fields: Any) -> None:
        book = journal.Journal(self.path)
        try:
            book.append(event, date=time.strftime("%Y-%m-%d %H:%M:%S"), study=self.study, **fields)
        finally:
            book.close()


def _scores(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in list(metrics.items())[:_SHOWN])
