"""From the user's options to a study held by this process: space, data and weights checked before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from lungtune import catalog
from lungtune.core import environment, synthetic
from lungtune.core import params as parameters
from lungtune.core.family import Family
from lungtune.core.io import stage
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import DataError, SpaceError, StudyError, WeightsError
from lungtune.search import bank_provision, study_data
from lungtune.search.ui import opening

if TYPE_CHECKING:
    import pandas as pd

    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.data.synthetic_bank import SyntheticBank


@dataclass(frozen=True)
class Options:
    """What the user asked for; None where nothing was said.

    Attributes:
        space: name or file, several joined by commas.
        data: source, as ``folder:DIR``.
        profile: of the space.
        trials: how many.
        budget: wall time of this run in seconds.
        study: name.
        resume: go on with ``study``.
        seed: of suggestions, split and training.
        settings: ``--set`` overrides.
        bank: folder of synthetic images.
        backend: name of a member of ``search.backends``.
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
    backend: str = "ray_hosts"


class Prepared(NamedTuple):
    """A begun study, held by this process, with what is searched and on which data."""

    study: Study
    space: SearchSpace
    dataset: Dataset


def prepare(options: Options, console: Console, likely: Callable[[SearchSpace], None]) -> Prepared:
    """Begin a study, or reopen one with ``options.resume``.

    Args:
        options: the user's.
        console: takes notes on the data.
        likely: called with the space after the quick checks, before the data are read: a search is likely.

    Raises:
        UserError: the user must mend something; no study was begun, or a begun one was left as it was.
    """
    return resumed(options, console, likely) if options.resume else new(options, console, likely)


def new(options: Options, console: Console, likely: Callable[[SearchSpace], None]) -> Prepared:
    """Check everything that can be checked, then begin the study; see :func:`prepare`."""
    if options.space is None:
        raise SpaceError(f"--space must be given; shipped are {', '.join(catalog.spaces())}.")
    profile = options.profile or catalog.default_profile(options.space, options.data)
    space = catalog.space(options.space, profile, options.settings)
    if any(member.segments for member in space.members or (space,)):
        raise SpaceError(f"a recipe with segments can't be searched; train it with lungtune retrain {options.space}.")
    opening.profile(space, console)
    source = options.data or space.data or "phantom"
    seed = next(value for value in (options.seed, space.seed, 0) if value is not None)
    families = _families(space)
    if options.bank is not None:
        synthetic.refuse_idle(space)
        study_data.refuse_no_bank(options.bank)
    study = Study.new(options.study, space.name)
    with stage(f"Listing the cases of {source}"):
        cases = study_data.index(source)  # before the weights, which may take a while to look for
    if cases is not None:
        _refuse(space, lambda family, name: study_data.unnamed(cases, source, family.fields, name))
    _check_weights(space, families, _shipped_base(options, profile))
    likely(space)

    inspection = _inspected(source, seed, cases, console)
    task = space.objective.task
    _refuse(space, lambda family, name: study_data.missing(inspection, family.fields, name, family.task(task).targets))
    family, base = families[0]
    with study.claimed():  # a bank may take hours, in which nobody else may take the name
        bank = bank_provision.bank(space, inspection, options.bank, profile, console)
        data = study_data.load(inspection, family.fields, base.image_size, bank=bank)
    inspection.save(study.split_path)
    if bank:
        bank_provision.show(bank, study)
    resolved = replace(space, trials=options.trials or space.trials)
    study.begin(resolved, data=_described(data, bank), seed=seed, about=environment.describe())
    _note_baselines(study, resolved, data)
    return Prepared(study, resolved, data)


def resumed(options: Options, console: Console, likely: Callable[[SearchSpace], None]) -> Prepared:
    """Reopen a study that was begun; see :func:`prepare`."""
    if options.study is None:
        known = ", ".join(Study.names()) or "none yet"
        raise StudyError(f"--resume needs --study NAME; studies: {known}.")
    for flag in ("space", "data", "profile", "seed", "bank"):
        if getattr(options, flag) is not None:
            raise StudyError(f"a resumed study keeps its {flag}; leave --{flag} out, or begin a new study with it.")
    if options.settings:
        raise StudyError("a resumed study keeps its settings; leave --set out, or begin a new study with it.")
    study = Study.open(options.study)
    study.acquire()
    if study.healed:
        console.print(f"healed: the journal's last line was cut short ({study.healed} bytes put aside).")
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])
    opening.profile(space, console)
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
    data = study_data.load(study.split_path, family.fields, base.image_size, bank=bank)
    if not history.baselines:
        _note_baselines(study, space, data)
    if options.trials is not None and options.trials != history.target:
        study.append("target", trials=options.trials)
    return Prepared(study, space, data)


def _families(space: SearchSpace) -> list[tuple[Family[Any, Any], Any]]:
    """Return every family with each ``Base`` that a trial may train on."""
    families = [(catalog.family(name), base) for name, base in space.bases]
    return [(family, parameters.build(family.Base, base)) for family, base in families]


def _check_weights(space: SearchSpace, families: list[tuple[Family[Any, Any], Any]], remedy: str = "") -> None:
    """Make sure of the weights of every base; ``remedy`` is said where they can't be had."""
    for (name, _), (family, base) in zip(space.bases, families, strict=True):
        with catalog.blamed(name), stage(f"Looking for the pretrained weights of {name}"):
            try:
                family.check(base)
            except WeightsError as error:
                raise WeightsError(f"{error}{remedy}") from error


def _shipped_base(options: Options, profile: str) -> str:
    """Return how a search does without weights of the hub; empty where it can't, or names weights of its own."""
    named = any(key.endswith("weights") for key in options.settings)
    if profile != "full" or named or not catalog.has_demo(options.space or ""):
        return ""
    return " Or search with the tiny base that is shipped: `--profile demo`."


def _inspected(source: str, seed: int, cases: pd.DataFrame | None, console: Console) -> Inspection:
    """Return the audited split; print what is noteworthy, raise what forbids a search."""
    inspection = study_data.inspect(source, seed, cases)
    for warning in inspection.audit.warnings:
        console.print(f"[yellow]note:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
    if inspection.audit.problems:
        raise DataError("the data can't be searched on as it is: " + " ".join(inspection.audit.problems))
    return inspection


def _refuse(space: SearchSpace, lack: Callable[[Family[Any, Any], str], str]) -> None:
    """Raise what the data lack of the fields of any family: inputs, and targets of its tasks.

    Args:
        space: whose families.
        lack: returns the sentence on the fields of a family, given with its name; empty when the data have them all.

    Raises:
        DataError: the first such field, with the remedy.
    """
    for name in dict.fromkeys(name for name, _ in space.bases):
        sentence = lack(catalog.family(name), name)
        if sentence:
            raise DataError(sentence)


def _described(data: Dataset, bank: SyntheticBank | None) -> dict[str, Any]:
    """Return what the journal says of the data."""
    counts = {"train": len(data.train), "validation": len(data.validation)}
    about = {"source": data.source, "hash": data.manifest.hash, "classes": list(data.classes), "counts": counts}
    return about | ({"bank": bank.to_dict()} if bank else {})


def _note_baselines(study: Study, space: SearchSpace, data: Dataset) -> None:
    """Note the scores of models that know nothing; those that need a model are found by the first worker."""
    name = space.bases[0][0]
    with catalog.blamed(name):
        found = catalog.family(name).task(space.objective.task).baselines(data)
    if found:
        study.append("baselines", **found)
