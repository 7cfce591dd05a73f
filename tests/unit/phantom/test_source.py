"""Phantom source: a real tree of files, rendered once and atomically."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lungtune.data.phantom import CLASSES
from lungtune.data.sources import phantom as source
from lungtune.errors import DataError

SMALL = {"n": "30", "test": "12", "size": "32"}


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))
    return tmp_path / "phantom"


@pytest.fixture
def renders(monkeypatch):
    calls = []
    real = source._render
    monkeypatch.setattr(source, "_render", lambda made, part: (calls.append(part), real(made, part))[1])
    return calls


def test_writes_a_tree_of_real_files(cached):
    cases = source.index(None, SMALL)
    assert cases["split"].value_counts().to_dict() == {"train": 30, "test": 12}
    assert set(cases["label"]) <= set(CLASSES)
    assert cases["case_id"].is_unique
    for row in cases.itertuples():
        pixels, mask = np.asarray(Image.open(row.path)), np.asarray(Image.open(row.mask_path))
        assert pixels.shape == mask.shape == (32, 32)
        assert set(np.unique(mask)) <= {0, 255}
        assert row.text
    train, test = (set(cases.loc[cases["split"] == s, "patient_id"]) for s in ("train", "test"))
    assert not train & test
    assert [p.name for p in cached.iterdir() if p.is_dir()] == [next(p for p in cached.iterdir() if p.is_dir()).name]


def test_a_second_call_does_not_render(cached, renders):
    first = source.index(None, SMALL)
    second = source.index(None, SMALL)
    assert len(renders) == 1
    assert first.equals(second)


def test_options_get_folders_of_their_own(cached, renders):
    one, other = source.index(None, SMALL), source.index(None, SMALL | {"contrast": "2"})
    assert len(renders) == 2
    assert one.loc[0, "path"] != other.loc[0, "path"]


def test_more_training_images_keep_the_test_part(cached):
    few, more = source.index(None, SMALL), source.index(None, SMALL | {"n": "40"})
    tests = [c.loc[c["split"] == "test", "case_id"].to_list() for c in (few, more)]
    assert tests[0] == tests[1]


@pytest.mark.parametrize("harm", ["image gone", "empty mask", "no table", "torn table"])
def test_damaged_set_is_rendered_again(cached, renders, harm):
    cases = source.index(None, SMALL)
    root = next(p for p in cached.iterdir() if p.is_dir())
    if harm == "image gone":
        (root / cases.loc[3, "case_id"]).unlink()
    elif harm == "empty mask":
        (root / cases.loc[3, "case_id"].replace("images/", "masks/", 1)).write_bytes(b"")
    elif harm == "no table":
        (root / "table.csv").unlink()
    else:
        text = (root / "table.csv").read_text()
        (root / "table.csv").write_text(text[: len(text) // 2])
    again = source.index(None, SMALL)
    assert len(renders) == 2
    assert again.equals(cases)


def test_leftovers_of_a_dead_process_are_removed(cached, renders):
    source.index(None, SMALL)
    root = next(p for p in cached.iterdir() if p.is_dir())
    left = cached / f"{root.name}.abc.part"
    left.mkdir()
    (root / "table.csv").unlink()
    source.index(None, SMALL)
    assert not left.exists()


def test_an_interrupted_rendering_leaves_nothing(cached, monkeypatch):
    def stop(made, part):
        (part / "images").mkdir()
        raise KeyboardInterrupt("Ctrl-C")

    monkeypatch.setattr(source, "_render", stop)
    with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
        source.index(None, SMALL)
    assert not [p for p in cached.iterdir() if p.is_dir()]


def test_two_processes_draw_what_one_draws(cached, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_CHUNK", 2)
    many = source.index(None, SMALL)
    pixels = [np.asarray(Image.open(p)) for p in many["path"]]
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(source, "_CHUNK", 1000)
    alone = source.index(None, SMALL)
    np.testing.assert_array_equal(np.stack(pixels), np.stack([np.asarray(Image.open(p)) for p in alone["path"]]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"contrats": "2"}, "Did you mean 'contrast'"),
        ({"n": "many"}, "n must be a whole number, but got 'many'"),
        ({"size": "8"}, "32 <= size <= 1024 must hold, but got 8"),
        ({"domain": "C"}, "domain must be A or B"),
        ({"label_noise": "2"}, "0 <= label_noise <= 1 must hold"),
    ],
)
def test_wrong_options_are_reported(options, says):
    with pytest.raises(DataError, match=says):
        source.index(None, options)


def test_a_path_is_refused(tmp_path):
    with pytest.raises(DataError, match="takes no path"):
        source.index(tmp_path, {})


def test_import_is_light():
    code = (
        "import sys, lungtune.data.sources.phantom as s; assert s.SUMMARY; "
        "print(sorted(m for m in ('torch', 'scipy', 'pandas', 'ray') if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
