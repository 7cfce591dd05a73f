"""The live view at several widths, and the lines of a search in a pipe."""

import io
from types import SimpleNamespace

import pytest
from optuna.distributions import FloatDistribution
from rich.console import Console

import simulated
from lungtune import catalog
from lungtune.core.trial import History
from lungtune.search.ui import live, plain_lines, result_text, trial_table

NAMES = ("lr", "weight_decay", "batch_size", "augmentation", "class_weighting", "lora_rank", "lora_dropout")


def history(space, *events):
    printed = [{"event": "study", "schema": 2, "name": "s", "space": {**space.to_dict(), "trials": 8}}]
    return History([*printed, *events])


def trial(number, origin="sampler", **params):
    fields = {"params": params, "sampled": params, "distributions": {}, "seed": number, "origin": origin}
    return {"event": "trial", "trial": number, **fields}


def report(number, fidelity, score):
    metrics = {"macro_f1": score}
    return {"event": "report", "trial": number, "fidelity": fidelity, "samples": 1, "metrics": metrics,
            "checkpoint": None, "time": 0.0}  # fmt: skip


def end(number, state="PRUNED", reason="asha", **more):
    return {"event": "end", "trial": number, "state": state, "reason": reason, "message": "", **more}


def pause(number, fidelity):
    return {"event": "pause", "trial": number, "fidelity": fidelity}


def screen(width=80, height=24, terminal=True):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None)


def shown(view, console, **options):
    with console.capture() as captured:
        console.print(view.render(**options))
    return captured.get()


@pytest.fixture
def space():
    axes = {name: FloatDistribution(0.0, 1.0) for name in NAMES}
    return simulated.space(8, axes=axes)


@pytest.fixture
def piped(space):
    """Feeds events to a view in a pipe; returns the lines they bring."""
    console = screen(200, terminal=False)
    known = history(space)
    view = live.View(console, known, space)

    def feed(*events):
        before = len(console.file.getvalue())
        for event in events:
            known.apply(event)
            view.event(event)
        return console.file.getvalue()[before:].splitlines()

    return SimpleNamespace(view=view, feed=feed, console=console, history=known)


def test_eighty_columns_show_differing_parameters_first(space):
    same, values = dict.fromkeys(NAMES, 0.5), (0.00012, 0.0034)
    events = [trial(n, **{**same, "lora_dropout": value, "lora_rank": value}) for n, value in enumerate(values)]
    console = screen()
    text = shown(live.View(console, history(space, *events), space), console)
    assert text.index("rank") < text.index("lr")
    assert text.index("dropo") < text.index("lr")
    assert "0.00012" in text
    assert max(map(len, text.splitlines())) <= 80


def test_eighty_columns_hold_six_of_ten_parameters():
    space = catalog.space("clip_lora")
    points = [{**space.fixed, **space.start[0]}, {**space.fixed, **space.start[0], "lr": 5.1e-5, "lora_targets": "qvo"}]
    console = screen()
    known = history(space, *(trial(n, **point) for n, point in enumerate(points)))
    text = shown(live.View(console, known, space), console)
    _, hidden = trial_table.table(space, known, 18, 80)
    assert len(hidden) <= 4
    assert len(hidden) + 2 < len(space.axes)
    assert "no room for: " in text
    assert max(map(len, text.splitlines())) <= 80
    assert trial_table.table(space, known, 18, 160)[1] == []


def test_table_leaves_room_for_the_lines_below_it(space):
    events = [trial(n, **dict.fromkeys(NAMES, 0.1 * n)) for n in range(8)]
    console = screen(height=20)
    view = live.View(console, history(space, *events), space)
    for index in range(6):
        view.event({"event": "host", "index": index, "device": "GPU", "slots": 2, "why": "x" * 100})
    view.doing(0, "Loading")
    assert len(shown(view, console).splitlines()) <= 20


def test_view_shows_what_it_waits_for_before_the_first_trial(space):
    console = screen()
    view = live.View(console, history(space), space)
    assert shown(view, console).startswith("starting workers · 0 s")
    view.doing(0, "measuring how many trials train together (slots)")
    assert "device 0: measuring how many trials" in shown(view, console)
    view.doing(0, "")
    view.waiting = "starting a worker process for each device"
    text = shown(view, console)
    assert "starting a worker process" in text
    assert "measuring" not in text


def test_saved_counts_trials_that_ended_early_only(space):
    point = dict.fromkeys(NAMES, 0.5)
    started = [event for n in range(4) for event in (trial(n, **point), report(n, 1, 0.1))]
    known = history(space, *started, *(pause(n, 1) for n in range(4)))
    view = live.View(screen(), known, space)
    assert "saved" not in view._work.text()
    known.apply(end(0))
    known.apply(end(1, reason="budget"))
    assert f"{100 * 8 / 9:.0f} % saved by early stopping" in view._work.text()
    assert [t.number for t in known.counted_for_savings()] == [0]


def test_resize_begins_on_an_empty_screen(space, monkeypatch):
    console = screen()
    cleared = []
    monkeypatch.setattr(Console, "clear", lambda self, home=True: cleared.append(self.width))
    with live.View(console, history(space, trial(0, **dict.fromkeys(NAMES, 0.5))), space) as view:
        view._draw()
        assert cleared == []
        console.width = 60
        view._draw()
        view._draw()
    assert cleared == [60]


def test_piped_trial_has_one_line_and_a_new_best_is_shown(piped):
    point = dict.fromkeys(NAMES, 0.5)
    assert piped.feed(*(trial(n, **point) for n in range(3)), report(0, 1, 0.5), report(1, 1, 0.4)) == []
    printed = piped.feed(pause(0, 1))
    assert printed[0].startswith("trial   0  1 passes  macro_f1 0.5000  paused  lr=0.5 weight_decay=0.5")
    assert printed[1:] == ["best 0.5000 (trial 0)"]
    (line,) = piped.feed(pause(1, 1))
    assert line.startswith("trial   1  1 passes  macro_f1 0.4000  paused")
    assert piped.feed(end(1)) == [], "it has had its line"
    (line,) = piped.feed(
        end(
            2,
            "FAIL",
            "nan",
        )
    )
    assert line.startswith("trial   2  0 passes  fail (nan)")


def test_silent_pipe_gets_a_periodic_line(piped, monkeypatch):
    point = dict.fromkeys(NAMES, 0.5)
    piped.feed(trial(0, **point), report(0, 1, 0.5))
    before = len(piped.console.file.getvalue())
    monkeypatch.setattr(plain_lines, "SILENCE", -1.0)
    piped.view.tick()
    (line,) = piped.console.file.getvalue()[before:].splitlines()
    assert line.startswith("0 of 8 trials ended, 1 running, 0 paused · 1.0 of about ")


def test_pipe_prints_each_occupation_once(piped):
    for what in ("", "Decoding: 1 of 9", "Decoding: 2 of 9", "measuring"):
        piped.view.doing(0, what)
        piped.view.tick()
        piped.view.tick()
    assert piped.console.file.getvalue().splitlines() == [
        "starting workers ...",
        "device 0: Decoding ...",
        "device 0: measuring ...",
    ]


def test_device_that_cannot_train_is_named_with_its_next_try(piped):
    assert piped.feed({"event": "unusable", "index": 1, "why": "device 1 cannot train: no CUDA", "again": 120.0}) == [
        "device 1 cannot train: no CUDA; tried again in 2 min 00 s"
    ]


def test_said_sentence_stands_in_a_pipe_and_above_the_table(piped, space):
    piped.view.say("Ray failed")
    assert piped.console.file.getvalue().splitlines() == ["Ray failed"]
    console = screen()
    with live.View(console, history(space, trial(0, **dict.fromkeys(NAMES, 0.5))), space) as view:
        view.doing(0, "Loading")
        view.say("Ray failed")
        assert "Loading" not in shown(view, console)
    assert "Ray failed" in console.file.getvalue()


def test_several_spaces_list_the_space_first():
    space = catalog.space("clip_lora,clip_head", "demo")
    points = [dict(point) for point in space.start]
    full = [{**space.of(p).fixed, **dict.fromkeys(space.of(p).axes, 0), **p} for p in points]
    console = screen()
    view = live.View(console, history(space, *(trial(n, "start", **p) for n, p in enumerate(full))), space)
    text = shown(view, console)
    assert "space=clip_lora" in text
    assert max(map(len, text.splitlines())) <= 80


def test_source_configuration_is_that_of_the_leading_space():
    space = catalog.space("clip_lora,clip_head", "demo")
    events = [trial(n, "start", **p) for n, p in enumerate(space.start)]
    known = history(space, *events, report(0, 1, 0.4), report(1, 1, 0.6))
    assert "source configuration 0.6000" in live.View(screen(), known, space)._headline()


@pytest.mark.parametrize(
    ("work", "states", "line"),
    [
        ({"passes": 0.0, "saved": 0.0}, {}, "no trial has begun; 2 s."),
        ({"passes": 3.0, "saved": 0.0}, {"COMPLETE": 1}, "1 complete; 3.0 passes; 2 s."),
        ({"passes": 3.0, "saved": 0.5}, {"PRUNED": 2}, "2 pruned; 3.0 passes; 50 % saved by early stopping; 2 s."),
    ],
)
def test_closing_text_omits_empty_values(space, work, states, line):
    console = screen(200, terminal=False)
    result = {"objective": {"metric": "macro_f1"}, "best": None, "baselines": {"start": None}}
    result_text.show(SimpleNamespace(name="s"), space, {**result, "states": states, "work": work}, console, 2.0)
    assert console.file.getvalue().splitlines()[0] == line
