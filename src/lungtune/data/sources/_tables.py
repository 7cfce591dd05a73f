"""Table files as text: delimited files of any common encoding and separator, gzipped ones, Excel workbooks.

The content decides the format, not the suffix.

| what        | how it is recognised |
|-------------|----------------------|
| encoding    | byte order mark; NUL bytes at every other position (UTF-16); valid UTF-8; else cp1252, then Latin-1 |
| separator   | a line ``sep=;``; else that of ``,``, ``;``, tab, ``|`` by which most rows are as wide as the header |
| header      | the first line that is neither blank nor begins with ``#`` |
| short rows  | the missing values are empty; a row with more values than columns is an error |
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from lungtune.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
_SNIFFED = 200  # rows
MAX_BYTES = 1 << 30
"""Largest size of an unpacked table."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER = (
    (b"PAR1", "a Parquet file", "Save it as CSV, as by pandas.read_parquet(FILE).to_csv('FILE.csv', index=False)."),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of before 2007", "Save it as .xlsx or CSV."),
    (b"%PDF", "a PDF", "Give a CSV file."),
    (b"\x89PNG", "a PNG image", "Give the table that names the images."),
    (b"\xff\xd8\xff", "a JPEG image", "Give the table that names the images."),
)


@dataclass(frozen=True)
class Table:
    """A table of strings, N rows.

    Attributes:
        file: where it was read from.
        columns: names as written, without surrounding blanks; a column without a name is ``column K``, counted from 1.
        values: column -> N values without surrounding blanks; empty where there is none.
        lines: line (in Excel: row) of the file that each row begins in, counted from 1.
        encoding: Python's name of the encoding; ``xlsx`` of a workbook.
        separator: between values; empty for a workbook.
        unread: names of a workbook's further sheets with content, which are not read.
    """

    file: Path
    columns: tuple[str, ...]
    values: dict[str, list[str]] = field(repr=False)
    lines: list[int] = field(repr=False)
    encoding: str
    separator: str
    unread: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, column: str) -> list[str]:
        return self.values[column]

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield line and values by column of every row."""
        columns = [self.values[name] for name in self.columns]
        for line, *row in zip(self.lines, *columns, strict=True):
            yield line, dict(zip(self.columns, row, strict=True))

    def where(self, row: int) -> str:
        """Return ``FILE:LINE`` of row number `row`, for errors."""
        return f"{self.file}:{self.lines[row]}"


def read(file: Path) -> Table:
    """Read a table. Blank rows and columns without name and values are left out.

    Raises:
        DataError: not a table, damaged, without a header or rows, a column occurs twice, or a row has more values than
            there are columns; a sentence that names file and line.
        OSError: the file cannot be read.
    """
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} must be a whole gzip file, but it is not: {error}.") from error
        if len(data) > MAX_BYTES:
            raise DataError(f"{file} must hold at most {MAX_BYTES:,} bytes when it is unpacked, but holds more.")
    for magic, what, remedy in _OTHER:
        if data.startswith(magic):
            raise DataError(f"{file} must be a CSV file or an Excel workbook (.xlsx), but it is {what}. {remedy}")
    if data[:4] == b"PK\x03\x04":
        return _table(file, *_workbook(file, data))
    text, encoding = _decoded(file, data)
    rows, separator = _delimited(file, text)
    return _table(file, rows, encoding, separator)


def text(file: Path) -> str:
    """Return the text of a file of any common encoding.

    Raises:
        DataError: it is no text.
        OSError: the file cannot be read.
    """
    return _decoded(file, file.read_bytes())[0].lstrip("\ufeff")


def _decoded(file: Path, data: bytes) -> tuple[str, str]:
    """Return the text and its encoding."""
    encodings = [name for mark, name in _MARKS if data.startswith(mark)][:1]
    if not encodings and b"\0" in data[:4096]:
        head = data[:4096]
        encodings = ["utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"]
    for encoding in encodings or ["utf-8", "cp1252", "latin-1"]:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and sum(char < " " and char not in "\t\r\n\f" for char in text[:4096]) == 0:
            return text, encoding.removesuffix("-sig")
        break
    raise DataError(f"{file} must be a text file, such as CSV, but it holds other bytes. Save it as CSV in UTF-8.")


def _delimited(file: Path, text: str) -> tuple[Iterable[tuple[int, list[str]]], str]:
    """Return line and values of every row from the header on, and the separator."""
    skipped, separator, start = 0, "", 0
    for match in re.finditer(r"([^\r\n]*)(\r\n|\r|\n|$)", text):
        line = match[1].strip()
        declared = None if skipped else re.fullmatch(r'"?sep=(.)"?', match[1].strip(" "), re.IGNORECASE)
        if declared:
            separator = declared[1]
        elif line.strip("".join(SEPARATORS)) and not line.startswith("#"):
            break
        skipped, start = skipped + 1, match.end()
        if start >= len(text):
            break
    body = text[start:]
    separator = separator or _sniffed(body)
    return _parsed(file, body, separator, skipped), separator


def _parsed(file: Path, text: str, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        line = skipped + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quotation mark is not closed" if "unexpected end" in str(error) else str(error)
            raise DataError(f"{file}:{line}: every row must be valid CSV, but this one is not: {why}.") from error
        yield line, row


def _sniffed(text: str) -> str:
    """Return the separator by which most of the first rows have the header's number of values, at least 2."""
    head = text if len(text) < 2**18 else text[: text.rfind("\n", 0, 2**18) + 1]
    best, chosen = (0.0, 1), ","
    for separator in SEPARATORS:
        counts = []
        try:
            for row in csv.reader(io.StringIO(head, newline=""), delimiter=separator, skipinitialspace=True):
                counts += [len(row)] if any(map(str.strip, row)) else []
                if len(counts) > _SNIFFED:
                    break
        except csv.Error:
            continue
        width = counts[0] if counts else 0
        fitting = sum(count == width for count in counts[1:]) / max(1, len(counts) - 1)
        if width > 1 and (fitting, width) > best:
            best, chosen = (fitting, width), separator
    return chosen


def _workbook(file: Path, data: bytes) -> tuple[Iterable[tuple[int, list[str]]], str, str, tuple[str, ...]]:
    """Return the rows of a workbook's first sheet with content, with their numbers, and the names of the others."""
    import warnings

    import openpyxl

    try:
        unpacked = sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if unpacked > MAX_BYTES:
            raise ValueError(f"it holds {unpacked:,} bytes, more than {MAX_BYTES:,}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets: list[tuple[str, list[tuple[int, list[str]]]]] = []
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # some writers state wrong ones
                lines = enumerate(sheet.iter_rows(values_only=True), 1)
                rows = [(number, [_cell(value) for value in line]) for number, line in lines]
                rows = [row for row in rows if any(row[1])]
                sheets += [(sheet.title, rows)] if rows else []
            book.close()
    except Exception as error:  # openpyxl raises anything on damaged files
        raise DataError(f"{file} must be an Excel workbook or a text file, but it is not: {error}.") from error
    first = sheets[0][1] if sheets else []
    while first and first[0][1][0].startswith("#"):
        first = first[1:]
    return first, "xlsx", "", tuple(name for name, _ in sheets[1:])


def _cell(value: Any) -> str:
    """Return a cell as a CSV would have it: whole numbers without a point, dates in ISO 8601, errors empty."""
    if value is None or (
        isinstance(value, str) and re.fullmatch(r"#(N/A|REF!|VALUE!|DIV/0!|NAME\?|NULL!|NUM!)", value)
    ):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value).strip()


def _table(
    file: Path, rows: Iterable[tuple[int, list[str]]], encoding: str, separator: str, unread: tuple[str, ...] = ()
) -> Table:
    """Build the table of rows, of which the first is the header."""
    stream = iter(rows)
    names = [name.strip().strip("\ufeff").strip() for name in next(stream, (0, []))[1]]
    if not any(names):
        raise DataError(f"{file} must begin with a line of column names, but it is empty.")
    columns: list[list[str]] = [[] for _ in names]
    lines: list[int] = []
    same: dict[str, str] = {}  # one string for equal values
    for line, row in stream:
        values = [same.setdefault(value, value) for value in map(str.strip, row)]
        if not any(values):
            continue
        if any(values[len(names) :]):
            extra = next(value for value in values[len(names) :] if value)
            raise DataError(
                f"{file}:{line}: every row must have at most {len(names)} values, one per column, but this one has "
                f"{len(values)}: {extra[:40]!r} has no column. Put values that hold the separator in quotation marks."
            )
        lines.append(line)
        for k, column in enumerate(columns):
            column.append(values[k] if k < len(values) else "")
    kept = [k for k, name in enumerate(names) if name or any(columns[k])]
    named = [names[k] or f"column {k + 1}" for k in kept]
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise DataError(f"{file} must have columns of different names, but has '{twice[0]}' more than once.")
    if not lines:
        raise DataError(f"{file} must have at least one row below its header, but it has none.")
    values_of = {name: columns[k] for name, k in zip(named, kept, strict=True)}
    return Table(file, tuple(named), values_of, lines, encoding, separator, unread)
