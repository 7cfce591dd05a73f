"""README's two commands set everything up where the system's Python refuses packages (PEP 668)."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lungtune.core.paths import ROOT

README = ROOT / "README.md"
SCRIPT = "#!/bin/sh\necho uv\n"
INSTALL = "pip install --upgrade --target .uv uv"


def commands() -> list[str]:
    """Return the commands of README's quick start that stand in blocks of their own."""
    quick = README.read_text().split("## Quick start")[1].split("\n## ")[0]
    return [line for block in re.findall(r"```\n(.*?)```", quick, re.DOTALL) for line in block.splitlines()]


def test_readme_names_a_first_search_and_the_tests() -> None:
    search, tests, *_ = commands()
    assert search == f"{INSTALL} && .uv/bin/uv run python scripts/search.py --space clip_lora"
    assert tests == f"{INSTALL} && .uv/bin/uv run pytest -n 2"
    assert f"\n{tests}\n" in (ROOT / ".ci" / "run").read_text()


def wheel(folder: Path) -> None:
    """Write a wheel named uv, with a script of that name."""
    folder.mkdir()
    about = "Metadata-Version: 2.1\nName: uv\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "uv-1.0-py3-none-any.whl", "w") as file:
        file.writestr("uv-1.0.data/scripts/uv", SCRIPT)
        file.writestr("uv-1.0.dist-info/METADATA", about)
        file.writestr("uv-1.0.dist-info/WHEEL", kind)
        file.writestr("uv-1.0.dist-info/RECORD", "")


MANAGED = """
import pathlib, runpy, sys, sysconfig
folder, real = sys.argv.pop(1), sysconfig.get_path
sysconfig.get_path = lambda name, *args, **named: folder if name == "stdlib" else real(name, *args, **named)
sys.base_prefix, sys.argv[0] = sys.prefix, "pip"  # not a virtual environment
runpy.run_module("pip", run_name="__main__")
"""


def test_install_works_where_the_system_is_managed(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "venv", tmp_path / "system"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"python -m venv does not work here: {made.stdout.strip().splitlines()[0]}")
    (tmp_path / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=use a virtual environment\n")
    wheel(tmp_path / "wheels")

    def pip(*words: str) -> subprocess.CompletedProcess[str]:
        """Run pip as if this system were managed."""
        command = [tmp_path / "system" / "bin" / "python", "-c", MANAGED, tmp_path, *words]
        command += ["--no-index", "--find-links", tmp_path / "wheels", "--quiet", "--disable-pip-version-check"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    for _ in range(2):  # the second command installs it again
        done = pip(*INSTALL.split()[1:])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / ".uv" / "bin" / "uv").read_text() == SCRIPT
    if "externally-managed" not in pip("install", "uv").stderr:
        pytest.skip("this pip does not know the marker")
