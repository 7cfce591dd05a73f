"""Data sources: one module per on-disk format, discovered by file name.

A module `sources/<name>.py` has `SUMMARY` (one line), `OPTIONS` (option name -> help) and
`index(path, options) -> DataFrame`, the table described in `lungtune.data.cases`. A source only indexes: it opens
no image, at most a DICOM header. One that makes its images when indexed, which takes a while, has
`check(path, options)`, which raises what is wrong with them at once, and `traits` and `classes` of the same arguments,
which return what `data.cases.traits` and `classes_of` will return for them. Options that are paths are named in
`PATHS`; a source whose own path may be something else than a path has `located(path) -> Path`. Files that begin with an
underscore are helpers, not sources.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lungtune.core import paths
from lungtune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

COMMON_OPTIONS = {
    "official": "no: ignore the source's own train/validation/test parts and draw all parts anew",
    "leaks": "drop: leave training images out that are also in the official test part, instead of stopping",
    "voi": "yes: show DICOM images through their own VOI window or LUT instead of scaling each by its percentiles",
    "unreadable": "drop: leave images and masks out that cannot be read, instead of stopping",
    "ignore": "GLOB, or several joined with |: leave files and folders out, such as docs or */thumbs/*",
    "mask_values": "numbers joined with |: the values of masks that are lung, where masks hold several, as in 127|254",
}
_COMMON_VALUES = {
    "official": ("yes", "no"),
    "leaks": ("stop", "drop"),
    "voi": ("yes", "no"),
    "unreadable": ("stop", "drop"),
}
_KEY = re.compile(r",([A-Za-z_][A-Za-z0-9_]*)=")
_EXPRESSIONS = ("patient",)


def names() -> tuple[str, ...]:
    """Return the names of all sources, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def module(name: str) -> ModuleType:
    """Import the source `name`.

    Raises:
        DataError: there is no such source.
    """
    if name not in names():
        if "/" in name or Path(name).exists():
            kind = "table" if Path(name).is_file() else "folder"
            raise DataError(
                f"A data source must be SOURCE:PATH, but got the path '{name}'. Write {kind}:{name}, or name the "
                "source of its data set (lungtune data sources)."
            )
        raise DataError(f"'{name}' is not a data source.{did_you_mean(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def summaries() -> dict[str, str]:
    """Return each source's one-line summary by name."""
    return {name: module(name).SUMMARY for name in names()}


def parse_source(spec: str) -> tuple[str, Path | None, dict[str, str]]:
    """Split `NAME[:PATH][,key=value...]` into its parts.

    Path and values may hold commas and colons, but not `,key=`; a regular expression may hold that within brackets.

    Raises:
        DataError: the name is not a source, or an option is repeated.
    """
    rest, pieces = spec.strip(), list[tuple[str, str]]()
    starts = list(_KEY.finditer(rest))
    for match in reversed(starts):
        if not any(_unfinished(rest, before, match.start()) for before in starts if before.start() < match.start()):
            pieces.insert(0, (match.group(1), rest[match.end() :].strip()))
            rest = rest[: match.start()]
    options = dict(pieces)
    if len(options) < len(pieces):
        key = next(key for key, _ in pieces if sum(key == other for other, _ in pieces) > 1)
        raise DataError(f"Each option of a data source must be given once, but '{key}' is given twice in {spec!r}.")
    name, _, path = rest.partition(":")
    module(name.strip())
    return name.strip(), paths.expanded(path.strip()) if path.strip() else None, options


def _unfinished(text: str, key: re.Match[str], end: int) -> bool:
    """True if an option that is a regular expression has an open bracket where another option seems to begin."""
    if key.group(1) not in _EXPRESSIONS:
        return False
    try:
        re.compile(text[key.end() : end].strip())
    except re.error as error:
        return error.msg.startswith(("missing )", "unterminated"))
    return False


def absolute(spec: str) -> str:
    """Return the source with absolute paths, so that a study can be resumed from any folder.

    Raises:
        DataError: see `parse_source`.
    """
    name, path, options = parse_source(spec)
    source = module(name)
    for key in getattr(source, "PATHS", ()):
        if options.get(key):
            options[key] = str(paths.expanded(options[key]).resolve())
    tail = "".join(f",{key}={value}" for key, value in options.items())
    return f"{name}:{getattr(source, 'located', Path.resolve)(path)}{tail}" if path else f"{name}{tail}"


def folder_of(spec: str) -> Path | None:
    """Return the folder that a source's path names or lies in; None of images that are generated, or without a path.

    Raises:
        DataError: see `parse_source`.
    """
    name, path, _ = parse_source(spec)
    source = module(name)
    if path is None or hasattr(source, "check"):
        return None
    found: Path = getattr(source, "located", Path.resolve)(path)
    if not found.is_absolute():  # the name of a set
        return None
    return found if found.is_dir() else found.parent


def checked(spec: str) -> bool:
    """Check the options of a source that makes its images when it is indexed; return True if it is such a source.

    Raises:
        DataError: the source is unknown, or an option of it is unknown or wrong.
    """
    name, path, options = parse_source(spec)
    check = getattr(module(name), "check", None)
    if check is not None:
        _common(options)
        check(path, options)
    return check is not None


def traits(spec: str) -> frozenset[str]:
    """Return the traits (`data.cases.traits`) of the cases of a source that makes its images when it is indexed.

    Raises:
        DataError: the source is unknown, or an option of it is unknown or wrong.
    """
    name, path, options = parse_source(spec)
    _common(options)
    kinds: frozenset[str] = module(name).traits(path, options)
    return kinds


def classes(spec: str) -> tuple[str, ...]:
    """Return the classes, in label order, of a source that makes its images when it is indexed; none without labels.

    Raises:
        DataError: see :func:`traits`.
    """
    name, path, options = parse_source(spec)
    _common(options)
    names: tuple[str, ...] = module(name).classes(path, options)
    return names


def _common(options: dict[str, str]) -> dict[str, str]:
    """Remove the options in `COMMON_OPTIONS` from a source's, and return them.

    Raises:
        DataError: one has an unknown value.
    """
    common = {key: options.pop(key) for key in COMMON_OPTIONS if key in options}
    for key, value in common.items():
        if value not in _COMMON_VALUES.get(key, (value,)):
            raise DataError(f"{key} must be one of {', '.join(_COMMON_VALUES[key])}, but got {value!r}.")
    return common


def _listed(common: dict[str, str], key: str) -> list[str]:
    """Return the values of an option that `|` joins.

    Raises:
        DataError: one is empty.
    """
    values = [value.strip() for value in common[key].split("|")] if key in common else []
    if not all(values):
        raise DataError(f"{key} must be values joined with |, but got {common[key]!r}.")
    return values


def _numbers(common: dict[str, str]) -> tuple[int, ...]:
    """Return the option `mask_values`, ascending.

    Raises:
        DataError: a value is no whole number above 0.
    """
    values = _listed(common, "mask_values")
    if not all(value.isascii() and value.isdigit() and int(value) for value in values):
        raise DataError(f"mask_values must be whole numbers above 0 joined with |, but got {common['mask_values']!r}.")
    return tuple(sorted({int(value) for value in values}))


def index_source(spec: str) -> pd.DataFrame:
    """Index a data source; the options in `COMMON_OPTIONS` work with every source.

    Returns:
        The case table. Its `attrs`: `leaks` and `unreadable` are `stop` or `drop`, `voi` is True if VOI windows are
        applied, `mask_values` are the chosen values of masks, and `inventory` is the source's `Inventory`.

    Raises:
        DataError: the source cannot be indexed; the message states the reason and a remedy.
    """
    from lungtune.data import metadata
    from lungtune.data.cases import validate
    from lungtune.data.sources import _inventory
    from lungtune.data.sources._files import ignoring

    name, path, options = parse_source(spec)
    source = module(name)
    common = _common(options)
    known = getattr(source, "OPTIONS", None)
    for key in options:
        if known is not None and key not in known:
            raise DataError(f"'{key}' is not an option of '{name}'.{did_you_mean(key, [*known, *COMMON_OPTIONS])}")
    globs, mask_values = _listed(common, "ignore"), _numbers(common)
    try:
        with ignoring(path, globs):
            cases = metadata.fill(validate(source.index(path, options)))
        cases = _inventory.complete(cases, path, globs)
    except OSError as error:
        raise DataError(f"{error.filename or path} must be readable, but: {error.strerror or error}.") from error
    if common.get("official") == "no":
        cases["split"] = None
    cases.attrs["leaks"] = common.get("leaks", "stop")
    cases.attrs["voi"] = common.get("voi") == "yes"
    cases.attrs["unreadable"] = common.get("unreadable", "stop")
    cases.attrs["mask_values"] = mask_values
    return cases
