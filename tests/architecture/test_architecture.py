"""Architecture rules: layers, module sizes, docstrings, thin scripts, start-up without heavy libraries."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
TRACKED = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
]
PYTHON = [path for path in TRACKED if path.suffix == ".py" and path.exists()]
PRODUCT = [path for path in PYTHON if path.relative_to(ROOT).parts[0] in ("src", "trainables", "scripts")]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def test_layers_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def modules(package, folders_only=False):
    """Full names of the modules and packages that a package of lungtune holds."""
    paths = (ROOT / "src" / package.replace(".", "/")).iterdir()
    result = {
        path.stem for path in paths if (path / "__init__.py").exists() or (path.suffix == ".py" and not folders_only)
    }
    return {f"{package}.{name}" for name in result - {"__init__"}}


def test_every_package_has_a_layer():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers"]
    named = {module.strip() for layer in layers for module in layer.split("|")}
    package = ROOT / "src" / "lungtune"
    result = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {f"lungtune.{name}" for name in result - {"__init__"}} == named


@pytest.mark.parametrize("package", ["lungtune.search.backends", "lungtune.schedulers"])
def test_members_are_found_by_file_name_only(package):
    graph = grimp.build_graph("lungtune")
    for member in graph.find_children(package):
        inside = {member, *graph.find_descendants(member)}
        importers = {other for module in inside for other in graph.find_modules_that_directly_import(module)}
        allowed = (f"{package}.", "lungtune.tune.")  # a backend may build on another, as the library of Tune does
        assert not [other for other in importers - inside if not other.startswith(allowed)]


def test_lint_is_clean():
    ruff = shutil.which("ruff") or Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_types_are_clean(tmp_path):
    mypy = Path(sys.executable).with_name("mypy")
    done = subprocess.run([mypy, "--cache-dir", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", PYTHON, ids=names(PYTHON))
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", PRODUCT, ids=names(PRODUCT))
def test_public_names_have_docstrings(path):
    """Every module, public class and public function has a docstring; nested functions and overrides may go without."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or path.name == "__init__.py", "a module says what it is for"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or path.parent.name == "scripts", f"{node.name} has no docstring"


@pytest.mark.parametrize("path", SCRIPTS, ids=names(SCRIPTS))
def test_scripts_are_thin(path):
    """Parse, call, print: no loops, no classes, no comprehension over results, under 80 lines."""
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 80
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.While))]


def answered(door, *words, heavy=("torch", "ray", "mlflow", "open_clip", "sklearn", "pandas", "numpy")):
    """Run a script or ``python -m lungtune`` without heavy imports; return its output and CPU seconds."""
    code = (
        "import resource, runpy, sys; door, sys.argv[:] = sys.argv[1], sys.argv[1:]\n"
        "try: (runpy.run_path if door.endswith('.py') else runpy.run_module)(door, run_name='__main__')\n"
        "except SystemExit as left: assert not left.code\n"
        f"heavy = set({heavy!r}) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(door), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *out, used = done.stdout.splitlines()
    return "\n".join(out), float(used)


@pytest.mark.parametrize("path", SCRIPTS, ids=names(SCRIPTS))
def test_help_of_a_script_imports_nothing_heavy(path):
    assert "Usage:" in answered(path, "--help")[0]


def test_every_script_is_the_command_of_its_name():
    out, _ = answered("lungtune", "--help")
    assert {path.stem for path in SCRIPTS} | {"check", "list"} == set(re.findall(r"^  (\w+)  ", out, re.MULTILINE))


@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("lungtune", ["--help"]),
        ("lungtune", ["list"]),
        ("lungtune", ["search", "--list"]),
        (ROOT / "scripts" / "search.py", ["--list"]),
    ],
    ids=["help", "list", "search", "script"],
)
def test_listing_imports_nothing_heavy_and_is_quick(door, words):
    out, used = answered(door, *words)
    assert "search" in out if "--help" in words else "clip_lora" in out
    assert min(used, answered(door, *words)[1]) < 1  # the first may have had to compile


@pytest.mark.parametrize("door", ["lungtune", ROOT / "scripts" / "search.py"], ids=["command", "script"])
def test_checking_does_not_import_torch_or_ray(door):
    words = ["search"] * (door == "lungtune") + ["--space", "clip_lora", "--check"]
    assert "clip_lora" in answered(door, *words, heavy=("torch", "ray", "mlflow", "open_clip"))[0]


def test_version_imports_nothing_heavy():
    code = "import sys, lungtune; print(lungtune.__version__, [m for m in sys.modules if m.startswith('lungtune.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{metadata.version('lungtune')} []\n"


def test_the_product_names_commands_not_scripts():
    for path in (path for path in PRODUCT if path.relative_to(ROOT).parts[0] != "scripts"):
        assert not re.search(r"python scripts/", path.read_text()), path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "folder:/nowhere"], "/nowhere"),
        (["--data", "phantom,n=many"], "n must be a whole number"),
        (["--set", "lorarank=3"], "lorarank"),
        (["--study", "a/b"], "--study must be letters"),
    ],
)
def test_user_errors_import_nothing_heavy(words, sentence, tmp_path):
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as left: assert left.code == 2\n"
        "heavy = {'torch', 'ray', 'mlflow', 'open_clip', 'sklearn', 'scipy.stats'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(ROOT / "scripts" / "search.py"), "--space", "clip_lora", *words]
    env = {**os.environ, "LUNGTUNE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert sentence in done.stderr


def test_mlflow_folder_shadows_no_package():
    assert not [path for path in PYTHON if path.relative_to(ROOT).parts[0] == "mlflow"]
    code = "import importlib.util; print(importlib.util.find_spec('mlflow').origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "site-packages" in done.stdout


def test_every_family_has_a_space_and_every_space_a_family():
    from lungtune import catalog

    assert {catalog.space(name).family for name in catalog.spaces()} == set(catalog.families())
    assert set(catalog.families()) <= set(catalog.spaces())


def test_every_expected_error_is_matched():
    for path in (path for path in PYTHON if path.relative_to(ROOT).parts[0] == "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
                assert any(keyword.arg == "match" for keyword in node.keywords), f"{path}:{node.lineno}"


def test_no_file_names_a_package_registry():
    host = re.compile("|".join(map(re.escape, ("pypi" + ".org", "files.python" + "hosted", "index" + "-url"))))
    for path in TRACKED:
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".cfg", "") and path.is_file():
            assert not host.search(path.read_text(errors="replace")), path
