"""Table files: encodings, separators, comments, gzip, Excel, broken ones."""

from __future__ import annotations

import gzip

import openpyxl
import pytest

from lungtune.data.sources._tables import read
from lungtune.errors import DataError

ROWS = [["path", "label", "text"], ["a/ä.png", "normal", "klar, oder; nicht|so"], ["b.png", "Pneumonie", ""]]


def _text(separator=",", end="\n"):
    quoted = [[f'"{value}"' if any(s in value for s in ",;|") else value for value in row] for row in ROWS]
    return end.join(separator.join(row) for row in quoted) + end


@pytest.fixture
def put(tmp_path):
    """Write bytes or text to a file; return its path."""

    def put(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"]
)
def test_encodings_and_separators_are_recognised(put, separator, encoding):
    table = read(put(_text(separator).encode(encoding)))
    assert table.columns == tuple(ROWS[0])
    assert [list(row.values()) for _, row in table] == ROWS[1:]
    assert table.lines == [2, 3]
    assert table.separator == separator


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("head", ["", "# made by x\n", "# a, b\n#c\n\n", "sep=;\n", ";;;\n"])
def test_leading_comments_and_line_ends(put, head, end):
    table = read(put((head + _text(";")).replace("\n", end)))
    assert [list(row.values()) for _, row in table] == ROWS[1:]
    assert table.lines == [2 + head.count("\n"), 3 + head.count("\n")]


def test_gzip_and_excel_read_like_csv(put, tmp_path):
    assert read(put(gzip.compress(_text().encode()), "t.csv.gz")).values == read(put(_text())).values
    book = openpyxl.Workbook()
    for row in [*ROWS, [7.0, 0.5, None], [None, None, None]]:
        book.active.append(row)
    book.create_sheet("empty")
    book.create_sheet("notes").append(["hello"])
    book.save(tmp_path / "t.xlsx")
    table = read(tmp_path / "t.xlsx")
    assert [list(row.values()) for _, row in table] == [*ROWS[1:], ["7", "0.5", ""]]
    assert table.unread == ("notes",)


def test_values_span_lines_and_errors_name_the_first(put):
    table = read(put('path,text\na,"one\ntwo"\n\nb,three\n'))
    assert table["text"] == ["one\ntwo", "three"]
    assert table.lines == [2, 5]
    assert table.where(1).endswith("t.csv:5")


def test_separator_within_values_does_not_count(put):
    assert read(put("path;label\na.png;x, y\nb.png;z\n")).separator == ";"
    assert read(put("Image Index,Finding Labels\na.png,A|B\nb.png,C\n")).separator == ","
    assert read(put("path\na.png\n")).columns == ("path",)


def test_unnamed_and_empty_columns(put):
    table = read(put(",path,label,,\n0,a.png,x,,\n1,b.png\n"))
    assert table.columns == ("column 1", "path", "label")
    assert table["label"] == ["x", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must begin with a line of column names, but it is empty"),
        (b"\n\n# only\n", "must begin with a line of column names"),
        (b"path,label\n", "must have at least one row below its header"),
        (b"path,label\na.png,x,y\n", r"t\.csv:2: every row must have at most 2 values.*'y' has no column"),
        (b'path,text\na.png,"open\nb.png,x\n', r"t\.csv:2: every row must be valid CSV.*quotation mark is not closed"),
        (b'path,text\na.png,"x"y\n', r"t\.csv:2: every row must be valid CSV"),
        (b"path,label,path\na,b,c\n", "columns of different names, but has 'path' more than once"),
        (b"PAR1\x00\x01", "it is a Parquet file. Save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel workbook of before 2007"),
        (b"PK\x03\x04 damaged", "must be an Excel workbook or a text file"),
        (b"\x1f\x8b\x08damaged", "must be a whole gzip file"),
        (bytes(range(256)), "must be a text file"),
        (b"\xff\xfep\x00a", "must be a text file"),
    ],
)
def test_what_is_no_table_is_one_sentence(put, content, message):
    with pytest.raises(DataError, match=message):
        read(put(content))
