"""Scan: once per file, without crashes."""

from __future__ import annotations

import os

import pytest

from lungtune.data import scan as scanning
from lungtune.data.scan import scan


@pytest.fixture
def opened(monkeypatch):
    """The paths opened since the last look."""
    seen: list[str] = []
    describe = scanning.describe

    def spy(path, **options):
        seen.append(path)
        return describe(path, **options)

    monkeypatch.setattr(scanning, "describe", spy)
    return seen


def test_second_scan_opens_nothing(write, opened):
    files = [str(write(f"{i}.png", i)) for i in range(5)]
    first = scan(files)
    assert sorted(opened) == files
    opened.clear()
    second = scan(files[::-1])
    assert opened == []
    assert list(second.index) == files[::-1]
    assert second.loc[files].equals(first)


def test_a_changed_file_is_opened_again(write, opened):
    files = [str(write(f"{i}.png", i)) for i in range(2)]
    before = scan(files)
    opened.clear()
    write("1.png", 7)
    os.utime(files[1], ns=(1, 1))
    after = scan(files)
    assert opened == [files[1]]
    assert after["sha1"].iloc[0] == before["sha1"].iloc[0]
    assert after["sha1"].iloc[1] != before["sha1"].iloc[1]


def test_unreadable_files_are_reported_and_read_again(write, opened):
    good, bad = write("good.png", 1), write("bad.jpeg", 2)
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    files = [str(good), str(bad), str(good.with_name("none.png"))]
    table = scan(files)
    assert table["error"].iloc[0] is None
    assert "damaged" in table["error"].iloc[1]
    assert table["error"].iloc[2] == "does not exist"
    assert table["sha1"].iloc[1] is None
    bad.write_bytes(whole)
    assert scan(files)["error"].iloc[1] is None


def test_a_damaged_cache_is_rebuilt(write, cache, capsys):
    files = [str(write("a.png", 1))]
    first = scan(files)
    database = next(cache.glob("facts-*.sqlite"))
    database.write_bytes(b"not a database" * 1000)
    assert scan(files).equals(first)
    assert capsys.readouterr().err.count("is damaged") == 1
    assert scan(files).equals(first)
    assert capsys.readouterr().err == ""


def test_a_cache_cut_short_is_rebuilt(write, cache):
    files = [str(write(f"{i}.png", i)) for i in range(20)]
    first = scan(files)
    database = next(cache.glob("facts-*.sqlite"))
    database.write_bytes(database.read_bytes()[:5000])
    assert scan(files).equals(first)
    assert scan(files).equals(first)


def test_scanning_goes_on_without_a_cache(write, cache, capsys):
    cache.write_text("a file where the cache should be")
    files = [str(write("a.png", 1))]
    assert scan(files)["error"].iloc[0] is None
    output = capsys.readouterr().err
    assert "cannot be used" in output
    assert "LUNGTUNE_CACHE moves the cache; it must name a folder that can be written." in output


def test_paths_with_quotes_and_wildcards_are_cached(write):
    files = [str(write("it's; a 'näme' (1)/x %s?.png", 1))]
    assert scan(files).equals(scan(files))


def test_nothing_to_scan():
    assert scan([]).empty


def test_a_file_listed_twice(write):
    file = str(write("a.png", 1))
    table = scan([file, file])
    assert list(table.index) == [file, file]


def test_scan_of_many_files_prints_progress_in_a_pipe(write, capsys):
    files = [str(write(f"{i}.png", i, width=8, height=8)) for i in range(60)]
    scan(files)
    assert "Reading images: 60 in" in capsys.readouterr().err
    scan(files)
    assert capsys.readouterr().err == ""
