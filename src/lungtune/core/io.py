"""Atomic durable writes, inter-process locks, and progress bars on stderr.

Standard library and filelock; rich is imported only where a bar is drawn.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from filelock import FileLock, SoftFileLock, Timeout

from lungtune.core.text import complain

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

_QUIET = 50
"""Fewer items than this show progress only when they take longer than ``_LATE``."""

_LATE = 5.0
"""Seconds after which work that was expected to be short is reported."""

_EVERY = 10.0
"""Seconds between two lines of progress in a pipe."""

_PATIENCE = 1.0
"""Seconds of waiting for a lock before it is reported, and between two reports to the thread's listener."""

_OTHER = "another process"

_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP}
"""What file systems without locks, such as NFS without its lock service, answer. ENOSYS is filelock's own business."""


def log_stderr(text: str) -> None:
    """Print one line on stderr."""
    complain(text)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that files created, renamed or removed in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(folder: Path) -> None:
    """Create a folder, and its parents, if missing.

    A new folder is closed to others, and to its group unless the umask lets a group write (002, 007).

    Raises:
        OSError: it cannot be created, or is a file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        return
    folder.mkdir(mode=0o770, exist_ok=True)
    mode = folder.stat().st_mode
    if not mode & 0o020:
        folder.chmod(mode & 0o7700)


def write_atomic(path: Path, data: bytes, *, sync_folder: bool = True) -> None:
    """Replace a file's content; a reader, or a power cut, finds the old or the new file whole.

    Args:
        path: the file; its folder is created if missing. The draft is ``.<name>.<pid>.<thread>.tmp`` next to it.
        data: the new content.
        sync_folder: flush the folder as well; a caller that writes many files may do so once, with `fsync_folder`.

    Raises:
        OSError: the disk is full or not writable; what stood at ``path`` is untouched and no draft stays. Its
            ``filename`` is ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # the draft of a file system that fails
            draft.unlink(missing_ok=True)
    if sync_folder:
        fsync_folder(path.parent)


class Lock:
    """An exclusive lock between processes; the lock file names its holder while it is held.

    On a file system without locks, the existence of ``<path>.held`` is the lock; that of a dead process of this machine
    is replaced.

    Args:
        path: the lock file; it stays after release.
        reentrant: this process may acquire it again while it holds it.
    """

    def __init__(self, path: Path, *, reentrant: bool = False) -> None:
        self.path = path
        self._reentrant = reentrant
        self._lock: FileLock | SoftFileLock = FileLock(path, is_singleton=reentrant)

    def try_acquire(self, timeout: float = 0.0) -> bool:
        """Acquire the lock within ``timeout`` seconds; return whether that succeeded.

        Raises:
            OSError: the lock file cannot be written.
        """
        try:
            with warnings.catch_warnings(action="ignore"):  # of filelock, where it finds no flock
                self._lock.acquire(timeout=timeout)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in _NO_FLOCK or isinstance(self._lock, SoftFileLock):
                raise
            self._lock = SoftFileLock(self._held, is_singleton=self._reentrant)
            return self.try_acquire(timeout)
        self._sign(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        return True

    def acquire(self, doing: str) -> None:
        """Acquire the lock without a time limit; after one second, print its holder and tell the thread's listener.

        Args:
            doing: what the holder does, to follow "which": ``makes the pixel store x``.

        Raises:
            OSError: the lock file cannot be written.
        """
        if not self.try_acquire(_PATIENCE):
            stages, notice = _local.stages, f"Waiting for {self.holder()}, which {doing}"
            log_stderr(f"{notice} ...")
            before = stages.now
            try:
                while True:
                    if stages.listener is not None:
                        stages.set(notice)  # again and again, as a sign of life
                    if self.try_acquire(_PATIENCE):
                        break
            finally:
                stages.set(before)

    def holder(self) -> str:
        """Return the lock's holder: ``process 12 on host since 2026-01-31 12:00:00``, else ``another process``."""
        try:
            file = self._held if self._held.exists() else self.path
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return _OTHER
        pid, *more = text.splitlines() or [""]
        return f"process {pid} on {more[0]}" if more and pid.isdigit() else text or _OTHER

    def release(self) -> None:
        """Release the lock."""
        if not self._reentrant:
            self._sign("")
        self._lock.release()

    @property
    def _held(self) -> Path:
        return self.path.with_name(f"{self.path.name}.held")

    def _sign(self, text: str) -> None:
        if isinstance(self._lock, SoftFileLock):  # whose file says who holds it, for others to see whether it lives
            return
        if not text and not self.path.exists():  # its folder was deleted, and may be another process's by now
            return
        with suppress(OSError):  # on a full disk the lock holds all the same, its holder is not named
            self.path.write_text(text, encoding="utf-8")


@contextmanager
def waiting(path: Path, doing: str, *, reentrant: bool = False) -> Iterator[None]:
    """Hold a lock, waiting for it as `Lock.acquire` does.

    Raises:
        OSError: the lock file cannot be written.
    """
    lock = Lock(path, reentrant=reentrant)
    lock.acquire(doing)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive(path: Path, refusal: Callable[[str], Exception]) -> Iterator[None]:
    """Hold a lock, or raise at once.

    Args:
        path: the lock file.
        refusal: builds the error from the holder's description, see `Lock.holder`.

    Raises:
        OSError: the lock file cannot be written.
        Exception: what ``refusal`` returned: another process holds the lock.
    """
    lock = Lock(path)
    if not lock.try_acquire():
        raise refusal(lock.holder())
    try:
        yield
    finally:
        lock.release()


class _Stages:
    """Present work of a thread, and its listener."""

    def __init__(self) -> None:
        self.now = ""
        self.listener: Callable[[str], None] | None = None
        self.console: Console | None = None
        """Console of the bars on the terminal; nested bars share it."""
        self.bars = 0
        """Number of open :func:`progress` blocks."""
        self.timer: threading.Timer | None = None
        """Timer of the outermost :func:`stage`, until it has printed a description."""

    def set(self, what: str) -> None:
        self.now = what
        if self.listener is not None:
            self.listener(what)


class _Local(threading.local):
    def __init__(self) -> None:
        self.stages = _Stages()


_local = _Local()


def listen(listener: Callable[[str], None]) -> None:
    """Call ``listener`` with the text of each :func:`stage` or :func:`progress` of this thread; empty: none."""
    _local.stages.listener = listener


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Set the description of the thread's work in the ``with`` block.

    Without a listener, the innermost description is printed on stderr five seconds after the outermost block began.
    """
    stages = _local.stages
    before = stages.now
    stages.set(what)

    def late() -> None:
        stages.timer = None
        if not stages.bars:
            log_stderr(f"{stages.now} ...")

    timer = threading.Timer(_LATE, late)
    if stages.listener is None and stages.timer is None:
        timer.daemon = True
        stages.timer = timer
        timer.start()
    try:
        yield
    finally:
        if stages.timer is timer:
            timer.cancel()
            stages.timer = None
        stages.set(before)


class Update(Protocol):
    """Callback yielded by `progress`: ``update(done, note)``; ``note`` is shown behind the description."""

    def __call__(self, done: float, note: str = "") -> None: ...


@contextmanager
def progress(
    what: str, total: float | None, *, unit: str = "", line: str | None = None, lines: int = 0
) -> Iterator[Update]:
    """Show progress on stderr: a bar on a terminal, in a pipe a line every ten seconds.

    Args:
        what: description.
        total: amount of work; None where it is not known.
        unit: of fractional amounts, such as ``passes``; without one, amounts are whole numbers.
        line: printed in a pipe at the start; by default description and total. Empty: nothing.
        lines: further lines in a pipe, evenly spread over ``total``, whenever they are due.
    """
    stages = _local.stages
    before = stages.now
    stages.set(what)
    of = "" if total is None else f" of {total:,g}"

    def both(done: float, note: str = "") -> None:
        stages.set(f"{what}: {_amount(done, unit)}{of}")
        update(done, note)

    stages.bars += 1
    try:
        with _shown(what, total, unit, line, lines) as update:
            yield update if stages.listener is None else both
    finally:
        stages.bars -= 1
        stages.set(before)


@contextmanager
def _shown(what: str, total: float | None, unit: str, line: str | None, lines: int) -> Iterator[Update]:
    if not sys.stderr.isatty():
        amount = "" if total is None else f": {total:,g}{f' {unit}' if unit else ''}"
        if line != "":
            log_stderr(line or f"{what}{amount} ...")
        yield _plain_lines(what, total, unit, lines)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lungtune.core.terminal import console

    stages = _local.stages
    outer, stages.console = stages.console, stages.console or console(stderr=True)
    count = TextColumn(f"{{task.completed:.1f}}/{{task.total:g}} {unit}") if unit else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=stages.console, transient=True) as bar:
        task = bar.add_task(what, total=total)

        def update(done: float, note: str = "") -> None:
            shown = done if total is None else min(done, total)
            bar.update(task, completed=shown, description=f"{what}, {note}" if note else what)

        try:
            yield update
        finally:
            stages.console = outer


def _amount(done: float, unit: str) -> str:
    return f"{done:,.1f}" if unit else f"{done:,g}"


def _plain_lines(what: str, total: float | None, unit: str, lines: int) -> Update:
    passed, printed = 0, time.monotonic()
    of = "" if total is None else f" of {total:,g}"

    def update(done: float, note: str = "") -> None:
        nonlocal passed, printed
        step = int(done / total * lines) if total else 0
        if step > passed or time.monotonic() - printed > _EVERY:
            passed, printed = step, time.monotonic()
            log_stderr(f"{what}: {_amount(done, unit)}{of}{f' {unit}' if unit else ''}{f', {note}' if note else ''}")

    return update


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield ``items`` while showing how many of ``total`` are done, then the time taken.

    Below 50, nothing is shown for the first five seconds.
    """
    started = time.monotonic()
    with ExitStack() as shown:
        update = shown.enter_context(progress(what, total)) if total >= _QUIET else None
        if update is None:
            shown.enter_context(stage(what))
        for done, item in enumerate(items, start=1):
            yield item
            if update is None and done < total and time.monotonic() - started > _LATE:
                update = shown.enter_context(progress(what, total, line=""))  # already printed by the stage
            if update is not None:
                update(done)
    if update is not None:
        log_stderr(f"{what}: {total:,} in {time.monotonic() - started:.1f} s")
