"""From a generator's recipe to adapters and an honest report, with the same session and loop as the search."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune import catalog, runs
from lungtune.core import environment, paths, recipe
from lungtune.core import params as parameters
from lungtune.core.journal import write_atomic
from lungtune.core.space import SearchSpace
from lungtune.errors import SpaceError, TrialError
from lungtune.evaluate import generation_report, report, sheet
from lungtune.reopen import inspect, ledger_of, owned
from lungtune.weights import put

if TYPE_CHECKING:
    from lungtune.data.dataset import Part
    from lungtune.examiner import GeneratorExaminer, Judged

_SHOWN = 8


def regenerate(
    path: Path,
    space: SearchSpace,
    origin: recipe.Provenance,
    seeds: int,
    test: bool,
    out: Path | None,
    data: str | None,
) -> tuple[Path, dict[str, Any]]:
    """Train a generator's recipe; arguments and errors as of :func:`lungtune.retrain.retrain`.

    Returns:
        The folder, and what ``report.json`` holds: as :func:`lungtune.evaluate.report.content`, with sections of
        :func:`lungtune.evaluate.generation_report.section`.
    """
    trainable = catalog.family(space.family)
    base, params = parameters.build(trainable.Base, space.base), parameters.build(trainable.Params, space.fixed)
    trainable.check(base)
    mark = recipe.fingerprint(space, origin.fidelity, origin.split)
    folder = out or paths.home() / "models" / path.stem
    ledger = ledger_of(path, origin)
    with ExitStack() as held:
        if test:
            held.enter_context(ledger.hold(mark))
        inspection = inspect(space, origin, data, test)
        held.enter_context(owned(folder))

        from lungtune.data.dataset import load as open_dataset
        from lungtune.nn.capacity import as_searched
        from lungtune.training import Session

        dataset = open_dataset(inspection, base.image_size)
        assert space.seed is not None  # provenance made sure
        work = folder / "work" / mark
        each = [runs.Run(number, work / str(number)) for number in range(space.seed, space.seed + seeds)]
        session = Session(trainable, base, dataset, space.fidelity, space.objective, slots=runs.room(trainable, seeds))
        as_searched()
        untrained = session.examiner.untrained(session.pack, params)
        runs.train(session, space, each, origin.fidelity)
        first = each[0]
        if first.failure is not None:
            raise TrialError("error", f"the run of the recipe's seed {first.seed} failed: {first.failure}")
        put(folder, lambda draft: trainable.export(base, params, dataset.classes, first.adapter, draft))
        about = {"recipe": path.name, "fingerprint": mark, "weights": str(folder / "weights")}
        about["data"] = {"source": inspection.source, "split": origin.split, "classes": list(dataset.classes)}
        about["versions"] = environment.describe()["versions"]
        part = _section(session.examiner, dataset.validation, first.prediction, untrained)
        content = report.content(space, origin, about, [run.row() for run in each], part)
        if test:
            runs.make_sure(session, space, each, origin.fidelity)
            ledger.opened(mark, path.name)
            locked = open_dataset(inspection, base.image_size, test=True).test
            assert locked is not None
            for run, row in zip(each, content["runs"], strict=True):
                if run.failure is None:
                    scores = session.examiner.scores(locked, run.prediction)
                    row["test"] = scores[space.objective.metric]
            content["test"] = _section(session.examiner, locked, first.prediction, untrained)
            content["test_spread"] = report.spread([row["test"] for row in content["runs"] if row["test"] is not None])
        write_atomic(folder / "samples.png", _picture(dataset.train, dataset.classes, untrained, first.prediction))
        for stem in ("report", "test_report") if test else ("report",):
            write_atomic(folder / f"{stem}.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
            write_atomic(folder / f"{stem}.md", generation_report.markdown(content).encode())
        write_atomic(folder / "recipe.yaml", path.read_bytes())
        if test:
            ledger.result(mark, path.name, {n: v["value"] for n, v in content["test"]["metrics"].items()}, folder)
        runs.forget(folder / "work")
    return folder, content


def refuse(compare: str | None, bank: Path | None) -> None:
    """Make sure that nothing is asked of a generator that only classifiers can answer.

    Raises:
        SpaceError: something is.
    """
    for flag, value in (("--compare", compare), ("--bank", bank)):
        if value is not None:
            raise SpaceError(f"{flag} is for recipes of classifiers, but this one is of a generator; leave it out.")


def _section(examiner: GeneratorExaminer, part: Part, judged: Judged, untrained: Judged) -> dict[str, Any]:
    others = {"untrained": examiner.evidence(part, untrained), "real": examiner.real(part, judged)}
    mine, copies = examiner.evidence(part, judged), examiner.copies(judged).share
    return generation_report.section(mine, others, part.patients, examiner.dataset.classes, copies)


def _picture(train: Part, classes: tuple[str, ...], untrained: Judged, judged: Judged) -> bytes:
    """Real images above what the untrained base draws, above what the recipe draws, class by class."""
    rows = []
    for k, name in enumerate(classes):
        rows.append((f"{name}, real", np.asarray(train.images[train.labels == k][:_SHOWN])))
        for what, made in (("base", untrained), ("recipe", judged)):
            rows.append((f"{name}, {what}", made["images"][made["drawn"] == k][:_SHOWN]))
    return sheet.contact_sheet(rows, _SHOWN)
