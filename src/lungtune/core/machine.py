"""Classification of exceptions: caused by the machine (disk, file system, device), or by code and configuration."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

DISK, DEVICE = "disk", "machine"
"""Kinds of machine faults: a disk that takes no more data, and all others."""

REASONS = (DISK, DEVICE)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_BROKEN = {
    *(errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENXIO),
    *(errno.ESTALE, errno.ENOTCONN, errno.ENOLINK, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EBADMSG),
    *(getattr(errno, name) for name in ("EUCLEAN", "EREMOTEIO", "ESHUTDOWN") if hasattr(errno, name)),
}
_FULL_TEXT = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in sorted(_FULL)) + r"|os error (28|30|122)\b|disk is full", re.I
)
_BROKEN_TEXT = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in (errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE))
    + r"|os error (5|12|23|24|116)\b|CUDA error|CUDA driver|cuDNN error: CUDNN_STATUS_EXECUTION_FAILED|NCCL error"
    r"|device lost|GPU is lost|uncorrectable (ECC|NVLink)|PytorchStreamWriter failed|unable to open shared memory",
    re.I,
)
_CODE_TEXT = re.compile("device-side assert|invalid configuration argument|out of memory", re.I)
"""CUDA errors that code or configuration causes."""


def kind(error: BaseException) -> str:
    """Return the kind of machine fault behind an exception, its causes and contexts included; empty if there is none.

    Libraries without error numbers (safetensors, torch) are recognised by the operating system's text.
    """
    kinds = {_kind(each) for each in _chain(error)}
    return next((each for each in REASONS if each in kinds), "")


def sentence(error: BaseException) -> str:
    """Return the exception that :func:`kind` found, in one line: what failed and the path if known."""
    found = next((each for each in _chain(error) if _kind(each)), error)
    if isinstance(found, OSError) and found.strerror:
        return f"{found.strerror}{f': {os.fsdecode(found.filename)}' if found.filename is not None else ''}"
    return " ".join(str(found).split())[:300] or type(found).__name__


def _kind(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return DISK if error.errno in _FULL else DEVICE if error.errno in _BROKEN else ""
    if not isinstance(error, (RuntimeError, OSError)) and type(error).__name__ != "SafetensorError":
        return ""
    text = str(error)
    if _FULL_TEXT.search(text):
        return DISK
    return DEVICE if _BROKEN_TEXT.search(text) and not _CODE_TEXT.search(text) else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes, contexts and members, each once."""
    todo, seen = [error], set()
    while todo:
        each = todo.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        before = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        todo += [before] if before is not None else []
        todo += getattr(each, "exceptions", ())
