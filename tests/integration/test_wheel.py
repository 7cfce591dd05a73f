"""The built wheel in an environment of its own, used from a folder outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import own_data
from lungtune.core.paths import ROOT

OWN = ROOT / "tests" / "contract" / "own"
QUICK = ("--set", "fidelity.min=0.3", "--set", "fidelity.max=1")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


def uv(*words: object) -> None:
    done = subprocess.run([UV, *map(str, words), "--offline", "--quiet"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--out-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, and sees the packages it depends on where they are installed here."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    uv("venv", "--python", sys.executable, folder)
    uv("pip", "install", "--no-deps", "--python", folder, wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


@pytest.fixture
def run(python: Path, tmp_path: Path) -> Run:
    """Run the installed ``lungtune`` in an empty folder, ``work``."""
    work = tmp_path / "work"
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LUNGTUNE_", "PYTHONPATH"))}
    env |= {"LUNGTUNE_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    env.pop("MLFLOW_TRACKING_URI", None)

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [python.with_name("lungtune"), *words] if words[0] != "python" else [python, *words[1:]]
        done = subprocess.run(command, env=env, cwd=work, capture_output=True, text=True, timeout=200)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def own(work: Path, name: str) -> str:
    """Put a family, its space and its data into the working folder; return the source."""
    for kind, suffix in (("trainables", "py"), ("search_spaces", "yaml")):
        (work / kind).mkdir()
        shutil.copy(OWN / kind / f"{name}.{suffix}", work / kind / f"{name}.{suffix}")
    (work / "data").mkdir()
    return own_data.WRITERS[name](work / "data")


def test_wheel_holds_all_that_is_shipped(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in held} == {"lungtune"}
    for folder, pattern in (("trainables", "*.py"), ("search_spaces", "*.yaml"), ("src/lungtune", "**/*.py")):
        files = [path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern)]
        wanted = {f"lungtune/{str(path).removeprefix('src/lungtune/')}" for path in files}
        assert files
        assert not wanted - held
    weights = (ROOT / "src/lungtune/models/bases").rglob("*.safetensors")
    assert {str(path.relative_to(ROOT / "src")) for path in weights} <= held


def test_wheel_answers_away_from_the_checkout(run: Run, python: Path, tmp_path: Path) -> None:
    own(tmp_path / "work", "colour_full")
    for words in (("list",), ("python", "-m", "lungtune", "search", "--list")):
        out = run(*words).stdout
        assert "clip_lora_wide" in out
        assert "colour_full" in out
    assert "family colour_full" in run("check", "--space", "colour_full").stdout
    code = (
        "import json; from lungtune import __file__, catalog; from lungtune.core import paths\n"
        "modules = [type(catalog.family(name)).__module__ for name in ('clip_head', 'colour_full')]\n"
        "print(json.dumps([__file__, str(paths.home()), paths.ROOT, *modules]))"
    )
    file, home, root, *modules = json.loads(run("python", "-c", code).stdout)
    assert Path(file).is_relative_to(python.parents[1])
    assert (home, root) == (str(tmp_path / "work"), None)
    assert modules == ["lungtune.trainables.clip_head", "lungtune_user.trainables.colour_full"]
    assert "Did you mean 'clip_head'?" in run("search", "--space", "clip_haed", code=2).stderr


@pytest.mark.slow
def test_wheel_searches_exports_and_retrains(run: Run, tmp_path: Path) -> None:
    words = ["--space", "clip_head", "--trials", "4", "--set", "synthetic_ratio=0", "--data", "phantom,n=150,test=60"]
    out = run("search", *words, "--profile", "demo", *QUICK, "--study", "s").stdout
    assert "lungtune export --study s" in out
    assert (tmp_path / "work/studies/s/summary.json").is_file()
    out = run("export", "--study", "s").stdout
    assert "next: lungtune retrain " in out
    assert "reproduced: yes" in run("retrain", "recipes/s-1.yaml").stdout
    assert (tmp_path / "work/models/s-1/report.md").is_file()
    assert (tmp_path / "work/mlflow/state/mlflow.db").is_file()


@pytest.mark.slow
def test_wheel_searches_a_family_of_the_working_folder(run: Run, tmp_path: Path) -> None:
    source = own(tmp_path / "work", "colour_full")
    out = run("search", "--space", "colour_full", "--data", source, "--trials", "2", "--study", "mine").stdout
    assert "best: trial" in out
    assert (tmp_path / "work/studies/mine/summary.json").is_file()
