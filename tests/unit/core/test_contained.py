"""`core.contained`: paths and links of folders from someone else."""

import os

import pytest

from lungtune.core import contained


@pytest.mark.parametrize("name", ["a.png", "images/0/1.png", "..a/b..c", "./x"])
def test_paths_below_the_folder_are_returned(name):
    assert contained.relative(name) == name


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "a/../../b", "a\\..\\..\\b", "C:\\x", "\\\\host\\share\\x", None, 3]
)
def test_paths_that_lead_out_raise_valueerror(name):
    with pytest.raises(ValueError, match="must be a path inside the folder"):
        contained.relative(name)


def test_first_link_that_leads_out_is_found(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "inside").symlink_to("../deep")
    assert contained.link_out(folder) is None
    (folder / "deep" / "out").symlink_to(tmp_path)
    assert contained.link_out(folder) == folder / "deep" / "out"


@pytest.mark.parametrize("target", ["nothing", "circle", "/proc/self/environ"])
def test_links_to_nothing_in_circles_or_elsewhere_lead_out(tmp_path, target):
    (tmp_path / "circle").symlink_to(target)
    assert contained.link_out(tmp_path) == tmp_path / "circle"


def test_folder_that_is_a_link_itself_is_walked(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "own").symlink_to(tmp_path / "link" / "file")
    assert contained.link_out(tmp_path / "link") is None
    os.unlink(tmp_path / "real" / "own")
