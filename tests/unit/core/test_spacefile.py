"""Validation of space files: every mistake is reported with its line."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from lungtune import catalog, schedulers
from lungtune.core import migration, space_index, spacefile
from lungtune.core.scheduler import SchedulerConfig
from lungtune.core.space import SearchSpace
from lungtune.core.spacefile import load_space
from lungtune.core.trial import Objective
from lungtune.errors import SpaceError
from lungtune.tasks.classification import Classification
from lungtune.tasks.generation import Generation
from lungtune.tasks.segmentation import Segmentation

PROMOTE, STOP = (SchedulerConfig("asha", {"mode": mode}) for mode in ("promote", "stop"))
NONE = SchedulerConfig("none")

GOOD = """\
summary: test
family: clip_lora
trials: 5
params:
  lr: {low: 5e-5, high: 1e-4, log: true}
  lora_rank: [2, 4]
  batch_size: 8
start:
  - {lr: 1e-4}
profiles:
  demo: {why: small, trials: 3, params: {lora_rank: 4}}
"""


def load(tmp_path, text, **options):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return catalog.space(str(path), **options)


def test_a_space_is_resolved(tmp_path):
    space = load(tmp_path, GOOD)
    assert space.axes == {
        "lr": FloatDistribution(5e-5, 1e-4, log=True),
        "lora_rank": CategoricalDistribution([2, 4]),
    }
    assert space.fixed["batch_size"] == 8
    assert space.fixed["lora_alpha"] == 32.0  # a parameter not named keeps its default
    assert space.trials == 5


def test_a_profile_overrides(tmp_path):
    space = load(tmp_path, GOOD, profile="demo")
    assert (space.trials, space.fixed["lora_rank"], space.why) == (3, 4, "small")
    assert list(space.axes) == ["lr"]


def test_all_mistakes_are_reported_at_once_with_their_lines(tmp_path):
    text = GOOD.replace("lora_rank: [2, 4]", "lora_rnak: [2, 4]").replace("batch_size: 8", "batch_size: 0")
    with pytest.raises(
        SpaceError, match=r"(?s)space\.yaml:6: 'lora_rnak'.*Did you mean 'lora_rank'.*:7: batch_size >= 1"
    ):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("{low: 5e-5, high: 1e-4, log: true}", "{low: 1e-4, high: 5e-5}", r":5: lr: low < high must hold.*swap"),
        ("{low: 5e-5, high: 1e-4, log: true}", "{low: 0, high: 1e-4, log: true}", r":5: lr .*1e-07"),
        ("{low: 5e-5, high: 1e-4, log: true}", "{lo: 5e-5, high: 1e-4}", r":5: lr: a range.*Did you mean 'low'"),
        ("{low: 5e-5, high: 1e-4, log: true}", "1e-4..5e-5", r":5: lr must be a number"),
        (
            "{low: 5e-5, high: 1e-4, log: true}",
            "{low: 1e-4, high: 1e-2, step: -1}",
            r":5: lr: step must be a",
        ),
        ("{low: 5e-5, high: 1e-4, log: true}", "{low: 1e-4, high: 1e-2, step: .nan}", r":5: lr: step must be a number"),
        (
            "{low: 5e-5, high: 1e-4, log: true}",
            "{low: 1e-4, high: 1e-2, step: 5}",
            r":5: lr: step .*<= high - low",
        ),
        ("{low: 5e-5, high: 1e-4, log: true}", "{low: 0.1, high: 0.5, step: 0.3}", r":5: lr: .* multiple .* high: 0.4"),
        ("[2, 4]", "{low: 2, high: 8, step: 1.5}", r":6: lora_rank: step must be a whole number"),
        ("[2, 4]", "9" * 400, r":6: lora_rank must be between -2\^63 and 2\^63"),
        ("trials: 5", "trials: 1000001", r":3: trials must be a whole number <= 1000000"),
        ("trials: 5", "seed: -1", r":3: seed must be a whole number from 0 to"),
        ("trials: 5", f"fidelity: {{max: {'9' * 400}}}", r":3: fidelity.max must be a number < 1,000,000"),
        ("[2, 4]", "[2]", r":6: lora_rank: a list must hold at least two"),
        ("[2, 4]", "[2, two]", r":6: lora_rank must be a whole number"),
        ("family: clip_lora", "family: clip_lor", r":2: there is no model family 'clip_lor'. Did you mean 'clip_lora'"),
        ("trials: 5", "trails: 5", r":3: 'trails' is not a key of a space. Did you mean 'trials'"),
        ("trials: 5", "trials: five", r":3: trials must be a whole number"),
        ("trials: 5", "sampler: tpee", r":3: sampler must be known.*Did you mean 'tpe'"),
        ("trials: 5", "objective: makro_f1", r":3: objective must be a metric of this family.*Did you mean 'macro_f1'"),
        ("trials: 5", "fidelity: {max: 1, min: 0.9}", r":3: fidelity must give at least two rungs"),
        ("trials: 5", "fidelity: {maxx: 1}", r":3: 'maxx' is not a field of fidelity. Did you mean 'max'"),
        ("trials: 5", "scheduler: ahsa", r":3: scheduler.name must be asha or .*Did you mean 'asha'"),
        ("trials: 5", "scheduler: {mode: promot}", r":3: scheduler.mode must be one of promote, stop.*mean 'promote'"),
        ("trials: 5", "scheduler: {mod: stop}", r":3: 'mod' is not a setting of scheduler 'asha'. Did you mean 'mode'"),
        ("trials: 5", "scheduler: true", r":3: scheduler must be text or a mapping, but got True"),
        ("trials: 5", "base: {wieghts: x}", r":3: 'wieghts' is not a base setting.*Did you mean 'weights'"),
        ("- {lr: 1e-4}", "- {lrr: 1e-4}", r":9: start: 'lrr' is not a parameter"),
        ("trials: 3,", "trials: three,", r":11: trials must be a whole number, but got 'three'"),
        ("trials: 5", "trials: true", r":3: trials must be a whole number"),
        ("trials: 5", "max_slots: 0", r":3: max_slots must be a whole number >= 1"),
        ("{why: small,", "{wy: small,", r":11: 'wy' is not a key of profile 'demo'"),
    ],
)
def test_each_mistake_ends_in_a_sentence(tmp_path, old, new, sentence):
    with pytest.raises(SpaceError, match=sentence):
        load(tmp_path, GOOD.replace(old, new), profile="demo")


def test_mistakes_of_every_kind_are_reported_together(tmp_path):
    text = GOOD.replace("trials: 5", "trials: many\nsamler: tpe\nobjective: macro_f2").replace(
        "[2, 4]", "{low: 4, high: 2}"
    )
    with pytest.raises(SpaceError, match=r"(?s):3: trials.*:4: 'samler'.*:5: objective.*:8: lora_rank.*no profile 'x'"):
        load(tmp_path, text, profile="x")


def test_an_unknown_profile_is_reported(tmp_path):
    with pytest.raises(SpaceError, match=r"there is no profile 'dmo'\. Did you mean 'demo'"):
        load(tmp_path, GOOD, profile="dmo")


def test_settings_fix_search_and_change_values(tmp_path):
    changed = {
        "lr": 1e-4,
        "lora_dropout": [0.0, 0.1],
        "weights": "x",
        "fidelity.max": 6,
        "trials": 7,
        "sampler": "random",
    }
    space = load(tmp_path, GOOD, settings=changed)
    assert space.fixed["lr"] == 1e-4
    assert "lr" not in space.axes
    assert space.axes["lora_dropout"] == CategoricalDistribution([0.0, 0.1])
    assert (space.base["weights"], space.fidelity.max, space.trials, space.sampler) == ("x", 6.0, 7, "random")


def test_fixed_parameter_is_fixed_and_noted_in_start_points(tmp_path):
    text = GOOD.replace("  - {lr: 1e-4}", "  - {lr: 1e-4, augmentation: 3}\n  - {lr: 1e-4, augmentation: 0}")
    space = load(tmp_path, text, settings={"augmentation": 0, "lora_rank": [2, 8]})
    assert space.start == ({"lr": 1e-4}, {"lr": 1e-4})
    assert space.fixed["augmentation"] == 0
    assert space.notes == ("augmentation is fixed at 0 in every trial; start point 1 had 3.",)
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_fixed_base_setting_is_noted_where_starts_differ(tmp_path):
    text = GOOD.replace("  - {lr: 1e-4}", "  - {lr: 1e-4, weights: x}")
    space = load(tmp_path, text, settings={"weights": "y"})
    assert (space.start, space.base["weights"]) == (({"lr": 1e-4},), "y")
    assert space.notes == ("weights is fixed at y in every trial; start point 1 had x.",)


def test_parameter_set_to_choices_keeps_start_points(tmp_path):
    space = load(tmp_path, GOOD, settings={"lr": [1e-3, 1e-2]})
    assert (space.start, space.notes) == (({"lr": 1e-4},), ())


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("lrr", 1, "'lrr' can't be set. Did you mean 'lr'"),
        ("lr", 7.0, "--set lr=7.0: lr <= 1 must hold"),
        ("sampler", "tp", "sampler must be known. Did you mean 'tpe'"),
        ("trials", 0, "trials must be a whole number >= 1, but got 0"),
        ("scheduler.mode", "stopp", "--set scheduler.mode=stopp: scheduler.mode must be one of promote, stop"),
        ("fidelity.min", 99, "0 < fidelity.min < fidelity.max must hold"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, key, value, sentence):
    with pytest.raises(SpaceError, match=sentence):
        load(tmp_path, GOOD, settings={key: value})


@pytest.mark.parametrize(
    ("line", "setting", "expected"),
    [
        ("", {}, PROMOTE),
        ("scheduler: none", {}, NONE),
        ("scheduler: {name: asha, mode: stop}", {}, STOP),
        ("scheduler: {mode: stop}", {"scheduler": "none"}, NONE),
        ("scheduler: {mode: stop}", {"scheduler": "asha"}, STOP),
        ("scheduler: none", {"scheduler": "asha"}, PROMOTE),
        ("scheduler: none", {"scheduler.mode": "stop", "scheduler": "asha"}, STOP),
        ("", {"scheduler.mode": "stop"}, STOP),
    ],
)
def test_the_scheduler_is_a_name_or_a_mapping(tmp_path, line, setting, expected):
    space = load(tmp_path, GOOD.replace("trials: 5", line), settings=setting)
    assert space.scheduler == expected


def test_journal_without_scheduler_keeps_stopping(tmp_path):
    data = load(tmp_path, GOOD).to_dict()
    del data["scheduler"]
    assert made_by_0_1(data).scheduler == STOP


def made_by_0_1(data):
    old = {**data, "objective": {"metric": "macro_f1", "mode": "max"}}
    return SearchSpace.from_dict(migration.study({"schema": 1, "space": old})["space"])


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"name": "asha", "mode": "promote"}, PROMOTE),
        ({"name": "asha", "mode": "stop"}, STOP),
        ({"name": "none", "mode": "promote"}, NONE),
    ],
)
def test_journal_of_version_0_1_keeps_its_scheduler(tmp_path, stored, expected):
    space = made_by_0_1(load(tmp_path, GOOD).to_dict() | {"scheduler": stored})
    assert space.objective == Objective("macro_f1", "max", "classification")
    assert space.scheduler == expected
    built = schedulers.create(space.scheduler, space.fidelity, space.objective)
    assert type(built) is schedulers.get(stored["name"])
    assert vars(built.settings) == expected.settings


def test_setting_of_another_scheduler_is_refused(tmp_path):
    with pytest.raises(SpaceError, match=r"'mode' is not a setting of scheduler 'none'\. none has none\."):
        load(tmp_path, GOOD.replace("trials: 5", "scheduler: {name: none, mode: stop}"))


@pytest.mark.parametrize("name", catalog.spaces())
@pytest.mark.parametrize("profile", ["full", "demo"])
def test_every_shipped_space_loads_and_survives_the_journal(name, profile):
    space = catalog.space(name, profile)
    assert SearchSpace.from_dict(space.to_dict()) == space
    assert space.start, "the source's own configuration is the first trial"
    assert space_index.summary(catalog.spaces()[name])


@pytest.mark.parametrize("name", sorted(set(catalog.spaces()) - {"clip_head"}))  # its reference is no project's
def test_source_configuration_names_optimiser_and_schedule(name):
    named = {"optimizer", "lr", "lr_schedule", "warmup", "weight_decay", "batch_size", "class_weighting"}
    assert catalog.space(name).start[0].keys() >= named


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("clip_lora", 0, ("adamw", 1e-4, 0.01, 4, "constant", 0.0, 3)),
        ("vit_lora", 0, ("adam", 2e-5, 1e-5, 16, "constant", 0.0, 10)),
        ("resnet152_head", 0, ("adam", 1e-3, 0.0, 32, "step", 0.0, 20)),
        ("resnet50_full", 0, ("adamw", 1e-4, 1e-4, 32, "cosine", 5 / 30, 30)),
        ("resnet50_full", 1, ("adam", 1e-4, 1e-5, 16, "constant", 0.0, 30)),
        ("vit_b16_head", 0, ("adamw", 1e-3, 1e-4, 32, "cosine", 5 / 20, 20)),
        ("convnext_full", 0, ("sgd", 0.1, 0.0, 4, "constant", 0.0, 25)),
        ("conformer_full", 0, ("sgd", 0.1, 0.0, 4, "constant", 0.0, 25)),
        ("res_unet", 0, ("sgd", 0.1, 0.0, 4, "constant", 0.0, 25)),
    ],
)
def test_start_points_are_the_sources_configurations(name, entry, expected):
    space = catalog.space(name)
    point = space.start[entry]
    named = ("optimizer", "lr", "weight_decay", "batch_size", "lr_schedule", "warmup")
    assert (*(point[key] for key in named[:5]), pytest.approx(point["warmup"]), space.fidelity.max) == expected


class Several(type(catalog.family("clip_lora"))):
    """A family of three tasks, two of which share a metric's name."""

    tasks = (Classification(), Segmentation(), Generation())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", Objective("macro_f1", "max")),
        ("objective: dice", Objective("dice", "max", "segmentation")),
        ("objective: segmentation.iou", Objective("iou", "max", "segmentation")),
        ("objective: coverage", Objective("coverage", "max", "generation")),
    ],
)
def test_an_objective_is_named_short_or_in_full(tmp_path, line, expected):
    path = tmp_path / "space.yaml"
    path.write_text(GOOD.replace("trials: 5", line))
    space = load_space(path, lambda name: Several(), schedulers.get)
    assert space.objective == expected
    assert space.to_dict()["objective"]["metric"] == f"{expected.task}.{expected.metric}"
    assert SearchSpace.from_dict(space.to_dict()) == space
    changed = load_space(path, lambda name: Several(), schedulers.get, settings={"objective": "cmmd"})
    assert (changed.objective.mode, changed.objective.sign) == ("min", -1)


class LowFirst(type(catalog.family("clip_lora"))):
    """A family whose first metric is better when low."""

    tasks = (Generation(),)


def test_default_objective_has_its_own_direction(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(GOOD.replace("trials: 5", ""))
    assert load_space(path, lambda name: LowFirst(), schedulers.get).objective == Objective("cmmd", "min", "generation")


def test_a_metric_the_family_lacks_is_refused_with_its_own(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(GOOD.replace("trials: 5", "objective: macro_f"))
    with pytest.raises(SpaceError, match=r"of this family, but got 'macro_f'\. Did you mean 'macro_f1'"):
        load_space(path, lambda name: Several(), schedulers.get)
    with pytest.raises(
        SpaceError, match=r"must be a metric of this family, but got 'dice'\. Known: accuracy"
    ) as caught:
        load(tmp_path, GOOD.replace("trials: 5", "objective: dice"))
    assert "classification." not in str(caught.value)
    space = load(tmp_path, GOOD)
    with pytest.raises(SpaceError, match=r"but got 'segmentation\.dice'"):
        spacefile.apply(space, catalog.family("clip_lora"), schedulers.get, "objective", "segmentation.dice")


def test_a_name_of_two_tasks_must_be_written_in_full():
    class Twice(Several):
        tasks = (Classification(), Other())

    with pytest.raises(
        SpaceError, match=r"of this family, but got 'macro_f1'\. Several .* classification\.macro_f1, other"
    ):
        Twice().objective("macro_f1")
    first, second = (Twice().objective(f"{task}.macro_f1") for task in ("classification", "other"))
    assert (first.metric, second.metric) == ("macro_f1", "other.macro_f1")
    assert (first.own, second.own, second.full) == ("macro_f1", "macro_f1", "other.macro_f1")
    assert Objective.from_dict(second.to_dict()) == second


class Other(Classification):
    """A task of another name with the same metrics."""

    name = "other"
