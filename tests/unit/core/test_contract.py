"""Families that break the contract are refused with file, line, offending value and remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lungtune import catalog
from lungtune.core.contract import LOOP, ContractError
from lungtune.core.params import specs
from lungtune.errors import SpaceError
from lungtune.models.params import Loop

ROOT = Path(__file__).parents[3]
FAMILY = (ROOT / "tests" / "contract" / "own" / "trainables" / "image_text_lora.py").read_text()
TASKED = (ROOT / "tests" / "contract" / "own" / "trainables" / "multilabel_head.py").read_text()
TASK = (ROOT / "tests" / "contract" / "own" / "tasks" / "findings" / "__init__.py").read_text()
WIDTH = '    lora_rank: int = param(4, low=1, high=16, structural=True, help="rank r of the adapter")\n'
LAST = "FAMILY = ImageText()"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes a family (and a task) of a user's own and loads it."""
    monkeypatch.setenv("LUNGTUNE_PATH", str(tmp_path))
    monkeypatch.delenv("LUNGTUNE_HOME", raising=False)

    def load(family: str, task: str = TASK, name: str = "mine"):
        for path, text in ((f"trainables/{name}.py", family), ("tasks/findings/__init__.py", task)):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return catalog.family(name)

    yield load
    for name in [name for name in sys.modules if name.split(".")[0] == catalog.OWN]:
        del sys.modules[name]


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize("text", [FAMILY, TASKED], ids=["family", "family with a task"])
def test_a_whole_family_is_loaded(own, text):
    assert own(text).summary


def test_contract_fields_equal_the_loops_fields():
    known = specs(Loop)
    assert known.keys() == LOOP.keys()
    for name, spec in known.items():
        assert spec.type is LOOP[name].type
        assert LOOP[name].low is None or spec.low >= LOOP[name].low
        assert LOOP[name].high is None or spec.high <= LOOP[name].high
        assert {*(spec.choices or ())} == {*LOOP[name].choices}


FAMILIES = {
    "no instance": (LAST, "", r"mine\.py:1: .*'FAMILY' is missing\. Write FAMILY = ImageText\(\)\."),
    "misspelt instance": (LAST, "FAMILLY = ImageText()", r"Rename FAMILLY to FAMILY\."),
    "a class": (LAST, "FAMILY = ImageText", r"mine\.py:\d\d+: .*is the class ImageText\. Write FAMILY = ImageText\(\)"),
    "no Family": ("class ImageText(Family[Base, Params])", "class ImageText", r"Derive it: class ImageText\(Family"),
    "raises": (LAST, "FAMILY = 1 / 0", r"mine\.py:\d\d+: .*raises ZeroDivisionError: division by zero"),
    "leaves": (LAST, "raise SystemExit(3)", r"mine\.py:\d\d+: .*raises SystemExit: 3"),
    "syntax": (LAST, "FAMILY = (", r"mine\.py:\d\d+: .*raises SyntaxError"),
    "package": (
        "import zlib",
        "import no_such_package",
        r"mine\.py:5: the package 'no_such_package' must be installed",
    ),
    "name": ("import IMAGE, TEXT", "import IMAGES, TEXT", r"cannot import name 'IMAGES'.*Did you mean 'IMAGE'"),
    "task": ("tasks.classification", "tasks.clasification", r"no task 'clasification'.*Did you mean 'classification'"),
    "no tasks": ("    tasks = (Classification(),)\n", "", r"tasks must be a tuple of instances .*but is missing"),
    "tasks text": ("(Classification(),)", '("classification",)', r"holds 'classification'\. Import the class"),
    "tasks class": (
        "(Classification(),)",
        "(Classification,)",
        r"holds the class Classification\. Write Classification",
    ),
    "one task": ("(Classification(),)", "Classification()", r"Write a comma after it: \(Classification\(\),\)"),
    "task twice": ("(Classification(),)", "(Classification(), Classification())", r"'classification' comes twice"),
    "no inputs": ("inputs = (IMAGE, TEXT)", "inputs = ()", r"inputs must be a tuple of fields .*but is \(\)"),
    "inputs text": ("inputs = (IMAGE, TEXT)", 'inputs = "image"', r"inputs must be a tuple of fields .*but is 'image'"),
    "one input": ("inputs = (IMAGE, TEXT)", "inputs = IMAGE", r"Write a comma after it: \(IMAGE,\)"),
    "no tokenize": ("def tokenize", "def tokenise", r"method tokenize, but has none\. Did you mean 'tokenise'"),
    "no Base": ("    Base = Base\n", "", r"ImageText\.Base must be a frozen dataclass, but is missing"),
    "no Params": ("    Params = Params\n", "", r"ImageText\.Params must be a frozen dataclass, but is missing"),
    "no size": ("    image_size: int", "    imagesize: int", r"lacks image_size\. Did you mean 'imagesize'"),
    "no dataclass": ("@dataclass(frozen=True)\nclass Params", "class Params", r"write @dataclass\(frozen=True\) above"),
    "not frozen": ("@dataclass(frozen=True)\nclass Base", "@dataclass\nclass Base", r"Base must be frozen"),
    "no loop": ("Params(Synthetic, Classes, Loop)", "Params(Classes)", r"lacks lr, .*Inherit from .*params\.Loop"),
    "no range": (WIDTH, "    width: int = param(4)\n", r"Params\.width must have a range"),
    "plain field": (
        WIDTH,
        "    width: int = 4\n",
        r"must be declared by lungtune\.core\.params\.param, but 'width' is not",
    ),
    "default": (WIDTH, "    width: int = param(40, low=1, high=8)\n", r"width <= 8 must hold, but got 40"),
    "default type": (
        WIDTH,
        "    width: int = param('4', low=1, high=8)\n",
        r"width must be a whole number, but got '4'",
    ),
    "choice": (WIDTH, "    kind: str = param('a', choices=('b', 'c'))\n", r"kind must be one of b, c, but got 'a'"),
    "low over high": (WIDTH, "    width: int = param(4, low=8, high=1)\n", r"must have low <= high"),
    "type": (WIDTH, "    width: tuple = param((4,))\n", r"width must be int, float, bool or str, but is tuple"),
    "unknown type": (WIDTH, "    width: Intt = param(4)\n", r"types of Params must be readable.*'Intt'"),
    "owner": (WIDTH, WIDTH.replace("high=16", "high=16, only_with=('optimiser', 'sgd')"), r"Did you mean 'optimizer'"),
    "neutral": (WIDTH, WIDTH.replace("high=16", "high=16, neutral=0"), r"neutral that it does not take"),
    "structural": (
        WIDTH,
        WIDTH.replace("structural=True", "structural=(0,)"),
        r"structural value that it does not take",
    ),
    "structural kind": (
        WIDTH,
        WIDTH.replace("structural=True", "structural=4"),
        r"must have structural=True, False or",
    ),
    "twice": (WIDTH, "    image_size: int = param(4, low=1, high=8)\n", r"'image_size' must be a field of Base or of"),
    "setting": (WIDTH, "    trials: int = param(4, low=1, high=8)\n", r"'trials' can't be a parameter"),
    "loop type": (WIDTH, "    batch_size: float = param(4.0, low=1, high=8)\n", r"batch_size must be int, because the"),
    "loop low": (WIDTH, "    batch_size: int = param(4, low=0, high=8)\n", r"batch_size must be at least 1, because"),
    "abstract": ("def backbone(", "def backbon(", r"must have the methods backbone.*Did you mean 'backbon'"),
    "no outputs": ("def outputs(", "def output(", r"method outputs, but has none\. Did you mean 'output'"),
    "signature": ("def check(self, base: Base)", "def check(self)", r"check must take \(base\), .*but takes \(\)"),
    "no method": (
        "    def export(",
        "    tokenize = None\n\n    def export(",
        r"tokenize must be a method, but is None",
    ),
    "ablation": ("    Base = Base\n", "    Base = Base\n    ablation = {'lrr': 0.1}\n", r"Did you mean 'lr'"),
    "packs": ("    Base = Base\n", "    Base = Base\n    packs = 'no'\n", r"packs must be True or False, but is 'no'"),
}


@pytest.mark.parametrize(("old", "new", "match"), FAMILIES.values(), ids=FAMILIES.keys())
def test_a_broken_family_is_reported(own, tmp_path, old, new, match):
    with pytest.raises(ContractError, match=match) as raised:
        own(changed(FAMILY, old, new))
    for line in str(raised.value).splitlines():
        assert line.startswith(f"{tmp_path}/trainables/mine.py:")


def test_a_family_that_trains_nothing_is_reported(own):
    broken = changed(changed(FAMILY, "def lora_targets", "def lora_target"), "def trainable_parameters", "def trained")
    with pytest.raises(ContractError, match=r"nothing would train\. Did you mean 'lora_target'"):
        own(broken)


def test_all_breaches_are_reported_at_once(own):
    broken = changed(changed(FAMILY, "inputs = (IMAGE, TEXT)", "inputs = ()"), "    Base = Base\n", "")
    with pytest.raises(ContractError, match=r"inputs must be(.|\n)*\.Base must be"):
        own(broken)


METRIC = 'Metric("min", "binary cross-entropy, mean over known labels, nats")'
TASKS = {
    "no class": ("class MultiLabel(", "class MultiLabl(", r"'MultiLabel'.*Did you mean 'MultiLabl'"),
    "no Task": ("class MultiLabel(Task)", "class MultiLabel", r"Derive it: class MultiLabel\(Task\)"),
    "no name": ('    name = "findings"\n', "", r"name must be its folder's name, .*but is None"),
    "name": ('name = "findings"', 'name = "multi"', r"the name of its folder, 'findings', but is 'multi'"),
    "no metrics": ("    metrics: ClassVar[Mapping[str, Metric]]", "    metric", r"metrics must map .*but is missing"),
    "metric": (METRIC, '"min"', r"metrics must map names .*but 'bce' is 'min'"),
    "direction": (METRIC, 'Metric("minimise", "nats")', r"mode of 'bce' must be max or min, but is 'minimise'"),
    "no direction": (METRIC, 'Metric("nats")', r"__init__\.py:\d+: .*raises TypeError"),
    "no targets": ("    targets = (LABELS,)\n", "", r"targets must be a tuple of fields .*but is missing"),
    "one target": ("targets = (LABELS,)", "targets = LABELS", r"targets must be a tuple of fields"),
    "predicted": ('predicted = ("findings",)', 'predicted = "findings"', r'Write \("findings",\)'),
    "compared": ("targets = (LABELS,)", "targets = (LABELS,)\n    compared = ('label',)", r"Did you mean 'labels'"),
    "abstract": ("def evaluator(", "def evaluate(", r"must have the methods evaluator.*Did you mean 'evaluate'"),
    "signature": ("batch: Any, layout: Any)", "batch: Any)", r"loss must take \(outputs, batch, layout\)"),
}


@pytest.mark.parametrize(("old", "new", "match"), TASKS.values(), ids=TASKS.keys())
def test_a_broken_task_is_reported(own, tmp_path, old, new, match):
    with pytest.raises(ContractError, match=match) as raised:
        own(TASKED, changed(TASK, old, new))
    assert str(raised.value).startswith(f"{tmp_path}/")


def test_an_unknown_own_task_is_reported(own):
    with pytest.raises(ContractError, match=r"mine\.py:\d+: there is no task 'findngs'.*Did you mean 'findings'"):
        own(changed(TASKED, "lungtune_user.tasks.findings", "lungtune_user.tasks.findngs"))


def test_a_family_of_a_shipped_name_is_refused(own):
    with pytest.raises(ContractError, match=r"vit_lora\.py:1: the family must have another name"):
        own(FAMILY, name="vit_lora")


def test_a_space_of_a_shipped_name_is_refused(own, tmp_path):
    own(FAMILY)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "vit_lora.yaml").write_text("family: mine\nparams: {lr: 1e-3}\n")
    with pytest.raises(SpaceError, match=r"vit_lora\.yaml:1: the space must have another name"):
        catalog.space("vit_lora")


def test_a_space_names_a_broken_family_by_its_own_line(own, tmp_path):
    with pytest.raises(ContractError, match="is missing"):
        own(changed(FAMILY, LAST, ""))
    space = tmp_path / "space.yaml"
    space.write_text("trails: 3\nfamily: mine\nparams: {lr: 1e-3}\n")
    with pytest.raises(ContractError, match=r"space\.yaml:1: 'trails'.*\n.*/trainables/mine\.py:1: "):
        catalog.space(str(space))


@pytest.mark.parametrize(
    ("made", "named", "match"),
    [
        ("", "nowhere", r"LUNGTUNE_PATH must name folders, but '.*nowhere' is none"),
        ("empty", "empty", r"must hold trainables, tasks, search_spaces, but '.*empty' holds none"),
        ("own/trainables", "own/trainables", r"holds none\. Did you mean '.*own'\?"),
    ],
)
def test_a_wrong_own_folder_is_reported(tmp_path, monkeypatch, made, named, match):
    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("LUNGTUNE_PATH", str(tmp_path / named))
    with pytest.raises(SpaceError, match=match):
        catalog.families()
