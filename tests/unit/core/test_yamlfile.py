"""Space files are read as people mean them."""

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
    ],
)
def test_scalars_are_yaml_1_2(text, value):
    read = yamlfile.parse(f"a: {text}", "f.yaml")["a"]
    assert read == value
    assert type(read) is type(value)


def test_every_key_knows_its_line():
    block = yamlfile.parse("a: 1\nb:\n  c: 2\n", "f.yaml")
    assert block.lines == {"a": 1, "b": 2}
    assert block["b"].lines == {"c": 3}


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(SpaceError, match=r"f\.yaml:2: 'a' stands twice \(first on line 1\)"):
        yamlfile.parse("a: 1\na: 2\n", "f.yaml")


def test_aliases_are_refused():
    with pytest.raises(SpaceError, match="aliases"):
        yamlfile.parse("a: &x [1]\nb: *x\n", "f.yaml")


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
