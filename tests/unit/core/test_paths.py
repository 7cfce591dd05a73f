"""Locations of studies and of a user's own families, in a checkout and with an installed lungtune."""

from pathlib import Path

import pytest

from lungtune import catalog
from lungtune.core import environment, paths, space_index

CHECKOUT = Path(__file__).parents[3]
SPACE = "summary: mine\nfamily: clip_head\nparams: {lr: 1e-3}\n"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder, with nothing else named."""
    for name in ("LUNGTUNE_HOME", "LUNGTUNE_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def installed(work, monkeypatch):
    """As in a wheel: there is no checkout."""
    for module in (paths, environment):
        monkeypatch.setattr(module, "ROOT", None)
    return work


def test_a_checkout_is_the_home_wherever_one_works(work):
    assert (paths.ROOT, paths.home()) == (CHECKOUT, CHECKOUT)
    assert paths.SPACES == CHECKOUT / "search_spaces"


def test_an_installed_lungtune_has_its_home_where_one_works(installed, monkeypatch):
    assert paths.home() == installed
    assert environment.describe()["git"] == {"commit": None, "changed": None}
    monkeypatch.setenv("LUNGTUNE_HOME", str(installed / "home"))
    assert paths.home() == installed / "home"


def test_own_spaces_of_the_working_folder_are_found(work):
    assert paths.own_folders() == []
    (work / "search_spaces").mkdir()
    (work / "search_spaces" / "mine.yaml").write_text(SPACE)
    assert paths.own_folders() == [work]
    assert space_index.files()["mine"] == work / "search_spaces" / "mine.yaml"
    assert catalog.space("mine").summary == "mine"


def test_named_folders_come_before_the_working_folder(work, monkeypatch):
    for folder in (work, work / "home", work / "named"):
        (folder / "trainables").mkdir(parents=True)
    monkeypatch.setenv("LUNGTUNE_HOME", str(work / "home"))
    monkeypatch.setenv("LUNGTUNE_PATH", str(work / "named"))
    assert paths.own_folders() == [work / "named", work / "home", work]


@pytest.mark.parametrize("folder", [CHECKOUT, CHECKOUT / "src" / "lungtune"], ids=["checkout", "package"])
def test_shipped_folders_are_not_own_folders(work, monkeypatch, folder):
    monkeypatch.chdir(folder)
    assert paths.own_folders() == []
    monkeypatch.setattr(paths, "ROOT", None)  # an installed lungtune, used in a checkout
    assert paths.own_folders() == []
