"""Tables and images of a data set in its published layout, found as users store them.

Names of tables and columns are compared without regard to case, those of columns without separators either. A table may
be plain, gzipped or saved as .xlsx, and lie in a folder of its own name. Images are found under another case or as
another image format.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from lungtune.data.sources import _columns, _tables
from lungtune.data.sources._files import elsewhere, ignored, images, named, require_folder
from lungtune.data.sources._files import folders as folders_in
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError, did_you_mean

_LEVELS = 3


def folder_with(path: Path | None, source: str, *patterns: str, inner: str = "") -> Path:
    """Return the folder, at `path` or up to three levels below, that holds a table of each pattern.

    Args:
        path: of the source.
        source: its name.
        patterns: of the tables' names.
        inner: the folder of the tables within the data set.

    Raises:
        DataError: there is none, or there are several at one level.
    """
    root = require_folder(path, source)
    level = [root]
    for _ in range(_LEVELS + 1):
        fitting = [folder for folder in level if _fits(folder, patterns)]
        if len(fitting) > 1:
            shown = named([str(folder) for folder in fitting], 3)
            raise DataError(f"The source '{source}' needs the folder of one data set, but {root} holds {shown}.")
        if fitting:
            return fitting[0]
        level = [inner for folder in level for inner in folders_in(folder)]
    wanted = " and ".join(patterns)
    remedy = elsewhere(root, source, lambda folder: _fits(folder, patterns) or _fits(folder / inner, patterns))
    raise DataError(f"The source '{source}' needs a folder with {wanted}, but {root} holds none.{remedy}")


def _fits(folder: Path, patterns: Sequence[str]) -> bool:
    return all(tables(folder, pattern) for pattern in patterns)


def tables(folder: Path, pattern: str) -> list[Path]:
    """Return the tables of a pattern such as `train.csv` in a folder, sorted by name."""
    found = []
    for name in _matching(folder, pattern):
        file = folder / name
        found += [file] if file.is_file() else [file / inner for inner in _matching(file, pattern)]
    return sorted(file for file in found if file.is_file() and not ignored(file))


def _matching(folder: Path, pattern: str) -> list[str]:
    """Return the names in a folder that a pattern fits, also with `.gz` or, for `.csv`, `.xlsx`; none of a file."""
    plain = pattern.lower()
    forms = (plain, f"{plain}.gz", f"{plain.removesuffix('.csv')}.xlsx")
    try:
        return [name for name in os.listdir(folder) if any(fnmatch.fnmatchcase(name.lower(), form) for form in forms)]
    except OSError:
        return []


def one_table(root: Path, pattern: str, columns: Sequence[str], usual: Iterable[str] = ()) -> Table:
    """Read the table of a pattern, the last of several in order of their names.

    Args:
        root: its folder.
        pattern: of its name.
        columns: that it must have.
        usual: that it may have; they too are renamed to this spelling.

    Raises:
        DataError: it is no table, or lacks a column.
    """
    content = _tables.read(tables(root, pattern)[-1])
    spelt = {_columns.key(name): name for name in (*usual, *columns)}
    renamed = {name: spelt.get(_columns.key(name), name) for name in content.columns}
    if len(set(renamed.values())) == len(renamed):
        values = {renamed[name]: held for name, held in content.values.items()}
        content = dataclasses.replace(content, columns=tuple(renamed.values()), values=values)
    lacking = [column for column in columns if column not in content.columns]
    if lacking:
        held = named(list(content.columns))
        raise DataError(
            f"{content.file} must have a column '{lacking[0]}', but its columns are {held}."
            f"{did_you_mean(lacking[0], content.columns)}"
        )
    return content


def identifier(text: str) -> str:
    """Return a number that stands for a patient or a study without the `.0` that spreadsheets and pandas append."""
    whole, point, zeros = text.partition(".")
    return whole if point and whole.isdecimal() and not zeros.strip("0") else text


class Images:
    """All images below a folder, by name.

    Attributes:
        paths: name -> absolute path.

    Raises:
        DataError: two files have one name.
    """

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, str] = {}
        self._loose: dict[str, list[str]] = defaultdict(list)
        for path in images(root):
            if self.paths.setdefault(path.name, str(path)) != str(path):
                raise DataError(
                    f"Images must have different names, but {self.paths[path.name]} and {path} have the same. Leave "
                    "one of them out with ignore=GLOB."
                )
            for name in {path.name.lower(), path.stem.lower()}:
                self._loose[name].append(str(path))

    def find(self, text: str) -> str | None:
        """Return the absolute path of the image that a table names: exactly, else by case, else without suffix."""
        if text in self.paths:
            return self.paths[text]
        name = text.replace("\\", "/").rpartition("/")[2].lower()
        for key in (name, name.rpartition(".")[0]):
            if len(held := self._loose.get(key, [])) == 1:
                return held[0]
        return None


def not_there(root: Path, example: str) -> DataError:
    """Return the error of a data set without any of the images that its tables list."""
    return DataError(
        f"{root} must hold the images that its tables list, but none is there: {example}, for one.{elsewhere(root, '')}"
    )
