"""Parsing of space files."""

import os

import pytest

from lungtune.core import yamlfile
from lungtune.errors import SpaceError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5e-5", 5e-5),
        ("1", 1),
        ("-2.5", -2.5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("1_0", "1_0"),
        ("2026-01-31", "2026-01-31"),
        ("1:30", "1:30"),
        ("<<", "<<"),
        ("017", 17),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("~", None),
        ("'1'", "1"),
    ],
)
def test_scalars_are_yaml_1_2(text, value):
    read = yamlfile.parse(f"a: {text}", "f.yaml")["a"]
    assert read == value
    assert type(read) is type(value)


def test_line_of_every_key_is_recorded():
    block = yamlfile.parse("a: 1\nb:\n  c: 2\n", "f.yaml")
    assert block.lines == {"a": 1, "b": 2}
    assert block["b"].lines == {"c": 3}


def test_duplicate_key_is_refused():
    with pytest.raises(SpaceError, match=r"f\.yaml:2: 'a' occurs twice \(first on line 1\)"):
        yamlfile.parse("a: 1\na: 2\n", "f.yaml")


def test_aliases_are_refused():
    with pytest.raises(SpaceError, match="aliases"):
        yamlfile.parse("a: &x [1]\nb: *x\n", "f.yaml")


@pytest.mark.parametrize("text", ["a: " + "[" * 20_000, "a: " + "{b: " * 20_000, "- " * 20_000, "[" * 65 + "]" * 65])
def test_deep_nesting_is_one_sentence(text):
    with pytest.raises(SpaceError, match=r"^f\.yaml:1: values may be nested at most 64 deep\.$"):
        yamlfile.parse(text, "f.yaml")


def test_nesting_up_to_the_limit_is_read():
    assert str(yamlfile.parse("[" * 64 + "]" * 64, "f.yaml")) == "[" * 64 + "]" * 64


@pytest.mark.parametrize("value", ["1" * 5000, "[-" + "1" * 5000 + "]"])
def test_a_number_of_5000_digits_is_one_sentence(value):
    with pytest.raises(SpaceError, match=r"^f\.yaml:2: not readable as YAML: Exceeds the limit .*\.$"):
        yamlfile.parse(f"a: 1\nb: {value}\n", "f.yaml")


def test_a_yaml_1_1_directive_changes_nothing():
    assert yamlfile.parse("%YAML 1.1\n---\na: no\n", "f.yaml") == {"a": "no"}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [1, 2", 1), ("a: 1\nb:\n\t- c", 3), ("a: 1\n---\nb: 2", 2), ("a: !x 1", 1), ("a: !!int x", 1)],
)
def test_broken_yaml_is_one_sentence_with_its_line(text, line):
    with pytest.raises(SpaceError, match=rf"^f\.yaml:{line}: not readable as YAML: [^\n]+\.$"):
        yamlfile.parse(text, "f.yaml")


def test_control_characters_are_one_sentence():
    with pytest.raises(SpaceError, match=r"^f\.yaml: not readable as YAML: unacceptable character [^\n]+\.$"):
        yamlfile.parse("a: \x00", "f.yaml")


def test_nested_duplicate_key_is_refused():
    with pytest.raises(SpaceError, match=r"f\.yaml:4: 'b' occurs twice \(first on line 2\)"):
        yamlfile.parse("a:\n  b: 1\n  c: 2\n  b: 3\n", "f.yaml")


def test_a_document_keeps_order_comments_and_types():
    inner = yamlfile.Document()
    inner.add("x", [1, None, "no", {"deep": 1e-8}], "many\nlines")
    document = yamlfile.Document()
    document.heading("Title\n\nmore")
    document.add("no", True)
    document.add("part", inner, "of the whole", apart=True)
    document.add("empty", {})
    assert document.text() == (
        "# Title\n\n# more\nno: true\n\npart: # of the whole\n"
        '  x: [1, null, "no", deep: 1e-08] # many lines\nempty: {}\n'
    )
    assert yamlfile.parse(document.text(), "f.yaml") == {
        "no": True, "part": {"x": [1, None, "no", {"deep": 1e-8}]}, "empty": {},
    }  # fmt: skip


def test_numpy_numbers_are_written_as_plain_ones():
    numpy = pytest.importorskip("numpy")
    document = yamlfile.Document()
    document.add("a", numpy.float64(0.25))
    assert document.text() == "a: 0.25\n"


def test_python_objects_are_refused():
    with pytest.raises(SpaceError, match="not readable as YAML"):
        yamlfile.parse("a: !!python/object/apply:os.system ['true']\n", "f.yaml")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"- 1\n", "must be a mapping"), (b"\xff\xfe", "UTF-8"), (b"a: " + b"x" * 1_000_001, "at most")],
)
def test_files_that_are_no_space(tmp_path, content, sentence):
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=sentence):
        yamlfile.load(path)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(SpaceError, match="cannot be read"):
        yamlfile.load(tmp_path / "none.yaml")


def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(SpaceError, match="must be a file, but is none"):
        yamlfile.load(tmp_path / "pipe.yaml")


def test_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yamlfile.load(tmp_path / "a.yaml") == {"a": 1}


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_empty_file_is_called_empty(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SpaceError, match="the file is empty"):
        yamlfile.load(tmp_path / "a.yaml")
