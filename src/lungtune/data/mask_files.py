"""Files of a mask: one, or several whose union it is, as of the left and the right lung.

A case table and a manifest name a mask by one string: the path of its file, or several paths joined by a NUL, which no
path can hold. Its digest is the SHA-1 of the file's bytes, or of the digests of several; where the option `mask_values`
says which values are lung, `:` and these values follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from lungtune.data.readers.base import sha1

_BETWEEN = "\0"


def joined(paths: Sequence[str]) -> str:
    """Return the one string that names a mask of these files."""
    return _BETWEEN.join(paths)


def files(mask: str) -> list[str]:
    """Return the files of a mask; inverse of `joined`."""
    return mask.split(_BETWEEN)


def shown(mask: str) -> str:
    """Return a mask's files for a message."""
    return " + ".join(files(mask))


def digest(digests: Sequence[str], values: Sequence[int] = ()) -> str:
    """Return a mask's digest.

    Args:
        digests: SHA-1 of each of its files.
        values: which of its values are lung, if the user chose.
    """
    whole = digests[0] if len(digests) == 1 else sha1(_BETWEEN.join(digests).encode())
    return f"{whole}:{'|'.join(map(str, values))}" if values else whole


def values_of(mask_digest: str) -> tuple[int, ...]:
    """Return the chosen values in a mask's digest; none if it holds none."""
    chosen = mask_digest.partition(":")[2]
    return tuple(int(value) for value in chosen.split("|")) if chosen else ()
