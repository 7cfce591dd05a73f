"""Closing message of a search: suggested commands run as they are."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from lungtune import catalog
from lungtune.core import params
from lungtune.core.space import SPACE, together
from lungtune.search.ui import result_text


def closing_text(space, chosen, scores=None, gain_over_start=None, **baselines):
    best = {
        "gain_over_start": gain_over_start,
        "trial": 4,
        "params": chosen,
        "fidelity": 9.0,
        "value": 0.8,
        "interval": None,
        "corrected": None,
    }
    best |= {"scores": scores or {}, "collapsed": "The model has collapsed: it predicts 'a' for 99 % of the cases."}
    result = {
        "objective": {"metric": "macro_f1", "mode": "max"},
        "best": best,
        "baselines": {"start": None, "constant": {}, **baselines},
        "states": {"COMPLETE": 1},
        "work": {"passes": 9.0, "saved": 0.0},
        "leaderboard": None,
    }
    console = Console(file=io.StringIO(), width=200)
    result_text.show(SimpleNamespace(name="mine"), space, result, console, 1.0)
    return console.file.getvalue()


def point(space, **values):
    family = catalog.family(space.family)
    defaults = {name: spec.default for name, spec in params.specs(family.Params).items()}
    return {**defaults, **{name: space.base[name] for name in space.axes if name in space.base}, **values}


@pytest.mark.parametrize("several", [False, True])
def test_family_with_ablation_gets_a_compare_command(several):
    space = catalog.space("res_unet", "demo")
    chosen = point(space, lambda2=0.1)
    if several:
        space = together([replace(catalog.space("clip_lora", "demo"), start=()), replace(space, start=())])
        chosen[SPACE] = "res_unet"
    words = closing_text(space, chosen)
    assert "mine-1.yaml --compare lambda2=0,0.01,0.1,1 --seeds 3   (does it help?" in words


def test_family_without_ablation_gets_no_compare_command():
    space = catalog.space("clip_lora", "demo")
    words = closing_text(space, point(space))
    assert "--compare" not in words
    assert "The model has collapsed" in words


def test_generator_result_reports_recognition():
    space = catalog.space("sd_lora", "demo")
    chosen, mine = point(space), {"cmmd": 90.0, "recognised": 0.614}
    others = {"untrained": {"cmmd": 280.0, "recognised": 0.17}, "real": {"cmmd": 10.0, "recognised": 0.93}}
    line = "taken for their class by a classifier of real images, mean over the classes: "
    assert line + "its samples 61 %; untrained base 17 %; real images 93 %" in closing_text(
        space, chosen, mine, **others
    )
    assert line not in closing_text(space, chosen, mine), "a share alone says little"
    assert line not in closing_text(space, chosen, {"macro_f1": 0.8}, **others)


def test_source_trained_for_less_than_the_best_shows_no_gain():
    space = catalog.space("clip_head", "demo")
    start = {"trial": 0, "value": 0.6, "interval": None, "reached": 1.0}
    text = closing_text(space, point(space), start=start, gain_over_start=None)
    assert "source configuration (trial 0) 0.6000 within 1 passes, fewer than the best's: no gain is stated" in text
    assert "beyond chance" not in text
