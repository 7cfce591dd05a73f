"""From a recipe to weights and an honest report, with the same session and loop as the search."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune import catalog, controls, runs
from lungtune.compare import Arms, compared_seeds
from lungtune.core import comparison, environment, paths, recipe, synthetic
from lungtune.core import params as parameters
from lungtune.core.journal import write_atomic
from lungtune.core.space import SearchSpace
from lungtune.core.trainable import Generator
from lungtune.errors import StudyError, TrialError
from lungtune.evaluate import baselines, generation_report, metrics, report
from lungtune.regenerate import refuse, regenerate
from lungtune.reopen import bank_of, inspect, ledger_of, load, owned
from lungtune.weights import put

if TYPE_CHECKING:
    import numpy as np

    from lungtune.data.dataset import Dataset, Part
    from lungtune.training import Session


@dataclass(frozen=True)
class RetrainReport:
    """What a retraining produced.

    Attributes:
        folder: holds ``report.json``, ``report.md``, ``weights/`` and a copy of the recipe.
        content: what ``report.json`` holds.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def reproduced(self) -> str:
        """``yes``, ``no``, or ``not compared`` (the recipe was edited)."""
        return str(self.content["reproduction"]["reproduced"])

    @property
    def text(self) -> str:
        """The report for a terminal."""
        drawn = isinstance(catalog.family(self.content["family"]), Generator)
        return generation_report.text(self.content) if drawn else report.text(self.content)

    @property
    def weights(self) -> Path:
        """The folder of the weights that load without lungtune."""
        return self.folder / "weights"


def retrain(
    path: Path,
    seeds: int = 1,
    test: bool = False,
    out: Path | None = None,
    data: str | None = None,
    blackout: bool = True,
    compare: str | None = None,
    bank: Path | None = None,
) -> RetrainReport:
    """Train a recipe to the fidelity its score was searched at; write weights and a report.

    An interrupted retraining goes on from its checkpoints when it is called again.

    Args:
        path: the recipe.
        seeds: how many runs: the recipe's seed, then the ones after it. The weights are those of the first.
        test: open the locked test set, once per study.
        out: folder; by default ``models/<recipe's name>`` in lungtune's home.
        data: the data source, when it lies elsewhere than the recipe says. It must hold the same split.
        blackout: with ``test`` and lung masks, train once more on images with black lungs, as a baseline.
        compare: ``NAME=VALUE,VALUE,...``: train the same with each of these values too, and say whether it helps.
        bank: folder of the recipe's synthetic images, when they lie elsewhere than the recipe says.

    Raises:
        SpaceError: the recipe has mistakes or is none, or ``compare`` can't be read.
        DataError: the data have problems, or they or the synthetic images are not those the recipe was searched on.
        WeightsError: pretrained weights cannot be had.
        StudyError: the test set was opened before, or another process writes to ``out``.
        TrialError: the run of the recipe's own seed failed.
        CheckpointError: a trained model can't be read back to score the test set, which stays locked.
    """
    space, origin = load(path)
    if seeds < 1:
        raise StudyError(f"--seeds >= 1 must hold, but got {seeds}.")
    trainable = catalog.family(space.family)
    if isinstance(trainable, Generator):
        refuse(compare, bank)
        return RetrainReport(*regenerate(path, space, origin, seeds, test, out, data))
    base = parameters.build(trainable.Base, space.base)
    compared = comparison.read(compare, space, trainable) if compare is not None else None
    wants = space if compared is None else dataclasses.replace(space, start=compared.points)
    source = bank_of(wants, origin, bank)
    origin = dataclasses.replace(origin, bank=source.to_dict() if source else origin.bank)
    trainable.check(base)
    mark = recipe.fingerprint(space, origin.fidelity, origin.split, origin.bank)
    folder = out or paths.home() / "models" / path.stem
    ledger = ledger_of(path, origin)
    with ExitStack() as held:
        if test:
            held.enter_context(ledger.hold(mark))
        inspection = inspect(space, origin, data, test)
        held.enter_context(owned(folder))  # made only now: a refusal leaves no folder behind

        from lungtune.data.dataset import load as open_dataset
        from lungtune.nn.capacity import as_searched
        from lungtune.training import Session

        images = source.take(inspection.manifest, wants) if source else None
        dataset = open_dataset(inspection, base.image_size, masks=trainable.needs_masks, bank=images)

        assert space.seed is not None  # provenance made sure
        work = folder / "work" / mark
        each = [runs.Run(number, work / str(number)) for number in range(space.seed, space.seed + seeds)]
        count = max(seeds, len(compared.others) * compared_seeds(seeds) if compared else 0)
        slots = runs.room(trainable, count)
        session = Session(trainable, base, dataset, space.fidelity, space.objective, slots=slots)
        as_searched()
        runs.train(session, space, each, origin.fidelity)
        if each[0].failure is not None:
            raise TrialError("error", f"the run of the recipe's seed {each[0].seed} failed: {each[0].failure}")
        arms = Arms(session, space, compared, each, origin, folder / "work") if compared else None
        if arms:
            arms.train()
        part, found = dataset.validation, each[0].prediction
        fitted = report.fit(part.labels, found["probabilities"], dataset.classes)
        put(folder, partial(_weights, trainable, base, space, dataset, each[0], fitted))
        predictions = {"validation": report.Predictions(part.case_ids, part.labels, found["probabilities"])}
        blind = controls.metadata(inspection, dataset.train, "validation", part, found["probabilities"])
        section = report.section(
            part.labels, found["probabilities"], part.patients, dataset.classes, dataset.train.labels, found, fitted,
            fitted_here=True, beside={controls.METADATA: blind},
        )  # fmt: skip
        about = {"recipe": path.name, "fingerprint": mark, "weights": str(folder / "weights")}
        about["data"] = {"source": inspection.source, "split": origin.split, "classes": list(dataset.classes)}
        about["versions"] = environment.describe()["versions"]
        content = report.content(space, origin, about, [run.row() for run in each], section)
        edited = content["reproduction"]["edited"]
        content["effect"] = arms.content(edited) if arms else None
        asked = compared is not None and compared.axis == synthetic.IMAGES
        due = synthetic.Settings.among(space.fixed).wants_bank and not asked
        content["unasked"] = comparison.question(path) if due else ""
        if test:
            masks = trainable.needs_masks or (blackout and controls.masked(inspection))
            dark = None
            if blackout and masks:
                seen = open_dataset(inspection, base.image_size, masks=True)
                dark = controls.Blackout(trainable, base, seen, space, origin.fidelity, work / "blackout")
            runs.make_sure(session, space, each + (arms.others if arms else []), origin.fidelity)
            ledger.opened(mark, path.name)
            locked = open_dataset(inspection, base.image_size, test=True, masks=masks).test
            assert locked is not None
            first = _score(session, space, locked, each, origin.fidelity, content)
            said = first["probabilities"]
            beside = {controls.METADATA: controls.metadata(inspection, dataset.train, "test", locked, said)}
            beside[controls.BLACKOUT] = (
                dark.beside(locked, said)
                if dark
                else baselines.missing(controls.NO_MASKS if blackout else controls.LEFT_OUT)
            )
            content["test"] = report.section(
                locked.labels, said, locked.patients, dataset.classes, dataset.train.labels, first, fitted,
                beside=beside,
            )  # fmt: skip
            if arms:
                arms.score(locked, content["effect"], edited)
            predictions["test"] = report.Predictions(locked.case_ids, locked.labels, said)
        report.write(folder, content, predictions)
        write_atomic(folder / "recipe.yaml", path.read_bytes())
        if test:
            scores = {name: value["value"] for name, value in content["test"]["metrics"].items()}
            ledger.result(mark, path.name, scores, folder)
        runs.forget(folder / "work")
    return RetrainReport(folder, content)


def _score(
    session: Session, space: SearchSpace, part: Part, each: list[runs.Run], fidelity: float, content: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Score every seed's model on the test part; return what the first one says."""
    metric = space.objective.metric
    for run, row in zip(each, content["runs"], strict=True):
        if run.failure is None:
            runs.score(session, space, run, part, fidelity)
            scores = metrics.classification(part.labels, run.tested["probabilities"], session.dataset.classes)
            row["test"] = scores[metric]
    content["test_spread"] = report.spread([row["test"] for row in content["runs"] if row["test"] is not None])
    return each[0].tested


def _weights(
    trainable: Any, base: Any, space: SearchSpace, dataset: Dataset, run: runs.Run, fitted: report.Fitted, draft: Path
) -> None:
    """Write the weights and their temperature."""
    values = parameters.build(trainable.Params, space.fixed)
    trainable.export(base, values, dataset.classes, run.adapter, draft)
    write_atomic(draft / "temperature.json", json.dumps(fitted.temperature.to_dict(), indent=1).encode())
