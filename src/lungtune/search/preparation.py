"""Creation or reopening of a study from the user's options, after checks of space, data and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from lungtune import catalog
from lungtune.core import environment, imbalance, journal, synthetic
from lungtune.core import params as parameters
from lungtune.core.family import Family
from lungtune.core.fields import IMAGE
from lungtune.core.io import stage
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import DataError, SpaceError, StudyError, WeightsError, did_you_mean
from lungtune.search import bank_provision, study_data, tune_schedulers
from lungtune.search.ui import opening

if TYPE_CHECKING:
    import pandas as pd

    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.data.synthetic_bank import SyntheticBank


ENGINES = {"hosts": "ray_hosts", "tune": "ray_tune"}
"""Members of ``search.backends`` by the names that users choose them by."""


@dataclass(frozen=True)
class Options:
    """Options of a search; None where the user set none.

    Attributes:
        space: name or file; several are joined by commas.
        data: source, such as ``folder:DIR``.
        profile: of the space.
        trials: number of trials.
        budget: wall time of this run in seconds.
        study: name.
        resume: continue ``study``.
        seed: of suggestions, split and training.
        settings: ``--set`` overrides.
        bank: folder of synthetic images.
        engine: a key of :data:`ENGINES`; by default the one that the space's scheduler needs.
        hosts: largest number of worker processes.
        gpus: numbers of the GPUs to use, by commas (:func:`lungtune.core.devices.choose_gpus`).
    """

    space: str | None = None
    data: str | None = None
    profile: str | None = None
    trials: int | None = None
    budget: float | None = None
    study: str | None = None
    resume: bool = False
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    bank: Path | None = None
    engine: str | None = None
    hosts: int | None = None
    gpus: str | None = None


class Prepared(NamedTuple):
    """A study locked by this process, its space and its data."""

    study: Study
    space: SearchSpace
    dataset: Dataset


def prepare(
    options: Options,
    console: Console,
    likely: Callable[[SearchSpace], None],
    begun: Callable[[Study], None] = lambda study: None,
) -> Prepared:
    """Create a study, or reopen one with ``options.resume``.

    Args:
        options: of the user.
        console: for notes on the data.
        likely: called with the space after the quick checks, before the data are read, to start slow work early.
        begun: called with the study as soon as an interruption leaves it on disk.

    Raises:
        UserError: the user must correct something; no study was created, and an existing one is unchanged.
    """
    if options.engine not in (None, *ENGINES):
        hint = did_you_mean(str(options.engine), ENGINES)
        raise SpaceError(f"--engine must be {' or '.join(ENGINES)}, but got '{options.engine}'.{hint}")
    return resumed(options, console, likely, begun) if options.resume else new(options, console, likely, begun)


def engine(options: Options, space: SearchSpace) -> str:
    """Return the key of :data:`ENGINES` that runs a search; a resumed study keeps its engine where none is asked for.

    Raises:
        SpaceError: the engine that was asked for cannot run the space's scheduler, or that cannot run the space.
    """
    tune_schedulers.check(space)
    of_tune = tune_schedulers.decides(space)
    if of_tune and options.engine == "hosts":
        raise SpaceError(
            f"scheduler {space.scheduler.name} is one of Ray Tune, which needs --engine tune, but got --engine hosts; "
            "leave --engine out."
        )
    before = None
    if options.resume and options.study:
        before = (journal.last(Study.open(options.study).journal_path, "open") or {}).get("engine")
    return options.engine or ("tune" if of_tune else before or "hosts")


def new(
    options: Options,
    console: Console,
    likely: Callable[[SearchSpace], None],
    begun: Callable[[Study], None] = lambda study: None,
) -> Prepared:
    """Run all checks, then create the study; see :func:`prepare`."""
    if options.space is None:
        raise SpaceError(f"--space must be given; shipped are {', '.join(catalog.spaces())}.")
    profile = options.profile or catalog.default_profile(options.space, options.data)
    space = catalog.space(options.space, profile, options.settings)
    if any(member.segments for member in space.members or (space,)):
        raise SpaceError(f"a recipe with segments can't be searched; train it with lungtune retrain {options.space}.")
    opening.profile(space, console)
    engine(options, space)
    source = options.data or space.data or "phantom"
    seed = next(value for value in (options.seed, space.seed, 0) if value is not None)
    if options.bank is not None:
        synthetic.check_bank_used(space)
        study_data.check_bank(options.bank)
    study = Study.new(options.study, space.name)
    with stage(f"Listing the cases of {source}"):
        cases = study_data.index(source)  # before the weights, whose check may take longer
    traits = study_data.traits(source, cases)
    space = catalog.fitted(space, traits)
    families = _families(space)
    if options.bank is not None and not synthetic.wanted(space):
        raise SpaceError(
            f"--bank is given, but synthetic images are images of a class, and {space.objective.task} has none; leave "
            "--bank out."
        )
    _check_fields(space, lambda family, name: study_data.unnamed(traits, source, family.fields, name))
    imbalance.check(space, study_data.classes(source, cases))
    _check_weights(space, families, _shipped_base(options, profile))
    likely(space)

    family, base = families[0]
    inspection = _inspected(source, seed, cases, base.image_size if IMAGE in family.fields else None, console)
    task = space.objective.task
    _check_fields(
        space, lambda family, name: study_data.missing(inspection, family.fields, name, family.task(task).targets)
    )
    imbalance.check(space, inspection.manifest.classes, inspection.manifest.class_counts("train"))
    resolved = replace(space, trials=options.trials or space.trials)
    with study.claimed(None if options.study else space.name):  # reserve the name: a bank may take hours
        bank = bank_provision.bank(space, inspection, options.bank, profile, console)
        data = study_data.load(inspection, family.fields, base.image_size, bank=bank)
        inspection.save(study.split_path)
        if bank:
            bank_provision.copy_contact_sheet(bank, study)
        study.begin(resolved, data=_described(data, bank), seed=seed, about=environment.describe())
    begun(study)
    with _released_on_error(study):
        _note_baselines(study, resolved, data)
    for remark in family.task(task).remarks(data):
        opening.note(remark, console)
    return Prepared(study, resolved, data)


def resumed(
    options: Options,
    console: Console,
    likely: Callable[[SearchSpace], None],
    begun: Callable[[Study], None] = lambda study: None,
) -> Prepared:
    """Reopen an existing study; see :func:`prepare`."""
    if options.study is None:
        known = ", ".join(Study.names()) or "none yet"
        raise StudyError(f"--resume needs --study NAME; studies: {known}.")
    for flag in ("space", "data", "profile", "seed", "bank"):
        if getattr(options, flag) is not None:
            raise StudyError(f"a resumed study keeps its {flag}; leave --{flag} out, or begin a new study with it.")
    if options.settings:
        raise StudyError("a resumed study keeps its settings; leave --set out, or begin a new study with it.")
    study = Study.open(options.study)
    study_data.check_split(study, study.history())
    begun(study)
    study.acquire()
    with _released_on_error(study):
        return _reopened(study, options, console, likely)


@contextmanager
def _released_on_error(study: Study) -> Iterator[None]:
    try:
        yield
    except BaseException:
        study.release()
        raise


def _reopened(study: Study, options: Options, console: Console, likely: Callable[[SearchSpace], None]) -> Prepared:
    if study.healed:
        console.print(f"healed: the journal's last line was cut short ({study.healed} bytes put aside).")
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])
    opening.profile(space, console)
    engine(options, space)
    if options.trials is not None and options.trials < len(history.trials):
        raise StudyError(
            f"--trials must be at least {len(history.trials)}, the trials this study has, but got {options.trials}."
        )
    families = _families(space)
    console.print(f"{study.name}: reopening weights and data ...", highlight=False)
    _check_weights(space, families)
    bank = study_data.reopen_bank(history)
    likely(space)
    family, base = families[0]
    data = study_data.reload(study, history, family.fields, base.image_size, bank=bank)
    if not history.baselines:
        _note_baselines(study, space, data)
    if options.trials is not None and options.trials != history.target:
        study.append("target", trials=options.trials)
    return Prepared(study, space, data)


def _families(space: SearchSpace) -> list[tuple[Family[Any, Any], Any]]:
    """Return (family, its ``Base``) for each base of the space."""
    families = [(catalog.family(name, space.objective.task), base) for name, base in space.bases]
    return [(family, parameters.build(family.Base, base)) for family, base in families]


def _check_weights(space: SearchSpace, families: list[tuple[Family[Any, Any], Any]], remedy: str = "") -> None:
    """Check that the weights of every base are available.

    Raises:
        WeightsError: they are not; the message ends in ``remedy``.
    """
    for (name, _), (family, base) in zip(space.bases, families, strict=True):
        with catalog.family_errors(name), stage(f"Looking for the pretrained weights of {name}"):
            try:
                family.check(base)
            except WeightsError as error:
                raise WeightsError(f"{error}{remedy}") from error


def _shipped_base(options: Options, profile: str) -> str:
    """Return the hint to use the shipped base; empty if the space has none or the user named weights."""
    named = any(key.endswith("weights") for key in options.settings)
    if profile != "full" or named or not catalog.has_demo(options.space or ""):
        return ""
    return " Or search with the tiny base that is shipped: `--profile demo`."


def _inspected(source: str, seed: int, cases: pd.DataFrame | None, size: int | None, console: Console) -> Inspection:
    """Return the audited split; print the audit's warnings. Arguments as in :func:`study_data.inspect`.

    Raises:
        DataError: the audit has problems.
    """
    inspection = study_data.inspect(source, seed, cases, size)
    for warning in inspection.audit.warnings:
        opening.note(warning, console)
    if inspection.audit.problems:
        raise DataError("the data can't be searched on as it is: " + " ".join(inspection.audit.problems))
    return inspection


def _check_fields(space: SearchSpace, lack: Callable[[Family[Any, Any], str], str]) -> None:
    """Check that the data have the fields of every family: inputs, and targets of its tasks.

    Args:
        space: its families are checked.
        lack: returns, for a family and its name, the sentence on missing fields; empty if the data have them all.

    Raises:
        DataError: a field is missing; the message has the remedy.
    """
    for name in dict.fromkeys(name for name, _ in space.bases):
        sentence = lack(catalog.family(name, space.objective.task), name)
        if sentence:
            raise DataError(sentence)


def _described(data: Dataset, bank: SyntheticBank | None) -> dict[str, Any]:
    """Return the ``data`` entry of the journal's ``study`` event."""
    counts = {"train": len(data.train), "validation": len(data.validation)}
    about = {"source": data.source, "hash": data.manifest.hash, "classes": list(data.classes), "counts": counts}
    return about | ({"bank": bank.to_dict()} if bank else {})


def _note_baselines(study: Study, space: SearchSpace, data: Dataset) -> None:
    """Write the scores of constant predictors to the journal; the first worker adds those that need a model."""
    name = space.bases[0][0]
    with catalog.family_errors(name):
        baselines = catalog.family(name, space.objective.task).task(space.objective.task).baselines(data)
    if baselines:
        study.append("baselines", **baselines)
