"""Exceptions are the machine's or the code's, whatever they are wrapped in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lungtune.core import machine
from lungtune.core.io import write_atomic
from lungtune.errors import TrialError


class SafetensorError(Exception):
    """Stand-in for the library's."""


def raised(error: BaseException, cause: BaseException | None = None, context: BaseException | None = None) -> Exception:
    """Return ``error`` as it is caught after it was raised from or during another one."""
    try:
        if context is not None:
            try:
                raise context
            except BaseException:
                raise error  # noqa: B904
        raise error from cause
    except Exception as caught:
        return caught


def of(number: int, *path: str) -> OSError:
    return OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (of(errno.ENOSPC), "disk"),
        (of(errno.EDQUOT, "/x"), "disk"),
        (of(errno.EROFS), "disk"),
        (of(errno.EIO), "machine"),
        (of(errno.ESTALE), "machine"),
        (raised(TrialError("error", "no checkpoint"), cause=of(errno.ENOSPC)), "disk"),
        (raised(ValueError("while cleaning up"), context=of(errno.EIO)), "machine"),
        (ExceptionGroup("several", [ValueError(), of(errno.ENOSPC)]), "disk"),
        (
            SafetensorError("Error while serializing: IoError(Os { code: 28, message: 'No space left on device' })"),
            "disk",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:626] . PytorchStreamWriter failed writing file"),
            "machine",
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "machine"),
        (RuntimeError("CUDA error: device-side assert triggered"), ""),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), ""),
        (PermissionError(errno.EACCES, "Permission denied"), ""),
        (ValueError("No space left on device"), ""),
        (MemoryError(), ""),
    ],
)
def test_kind_of_fault(error: BaseException, kind: str) -> None:
    assert machine.kind(error) == kind


def test_sentence_names_cause_and_path() -> None:
    error = raised(TrialError("error", "no checkpoint"), cause=of(errno.ENOSPC, "/data/x"))
    assert machine.sentence(error) == "No space left on device: /data/x"


def test_failed_write_names_its_file_and_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise of(errno.ENOSPC)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomic(file, b"new")
    assert machine.sentence(caught.value) == f"No space left on device: {file}"
    assert [each.name for each in tmp_path.iterdir()] == ["f"]
    assert file.read_bytes() == b"old"
