"""Preparation of a recipe for training: its space, data, ledger and output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune import catalog
from lungtune.core import io, paths, recipe
from lungtune.core.ledger import Ledger
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import DataError, SpaceError, StudyError, did_you_mean

if TYPE_CHECKING:
    from lungtune.data.dataset import Inspection
    from lungtune.data.manifest import Manifest


def load(path: Path) -> tuple[SearchSpace, recipe.Provenance]:
    """Read a recipe with the loader of search spaces.

    Raises:
        SpaceError: there is no such file, it has mistakes (all are named), or it is not a recipe.
    """
    if not path.is_file():
        raise SpaceError(_no_recipe(path))
    space = catalog.space(str(path))
    return space, recipe.provenance(space, path)


def _no_recipe(path: Path) -> str:
    if path.exists():
        return f"a recipe must be a YAML file, but {path} is none; write recipes with lungtune export."
    if str(path) in Study.names():
        return f"{path} is a study; write a recipe of it first: lungtune export --study {path}"
    own = paths.home() / "recipes"
    for folder in (path.parent, own):
        if (folder / path.with_suffix(".yaml").name).is_file():
            return f"there is no recipe {path}. Did you mean '{folder / path.with_suffix('.yaml').name}'?"
    near = [each for folder in {path.parent, own} if folder.is_dir() for each in sorted(folder.glob("[!.]*.yaml"))]
    hint = did_you_mean(str(path), map(str, near)) if len(near) <= 20 else ""
    return f"there is no recipe {path}.{hint or ' Write recipes with lungtune export.'}"


def ledger_of(path: Path, origin: recipe.Provenance) -> Ledger:
    """Return the study's ledger, or one next to the recipe if the study is not on this machine.

    Raises:
        StudyError: a study of that name is here, but its journal can't be read.
    """
    fallback = path.resolve().parent / "ledger.jsonl"
    if origin.study in Study.names():
        study = Study(paths.studies() / origin.study)
        if study.history().study.get("id") == origin.study_id:
            study.check_links()
            return Ledger(study.ledger_path, origin.study_id, origin.study, also=[fallback])
    return Ledger(fallback, origin.study_id, origin.study)


def inspect(space: SearchSpace, origin: recipe.Provenance, source: str | None, test: bool) -> Inspection:
    """Inspect the recipe's data and verify that their split is the recipe's; no pixels are decoded for the model.

    A split that would be drawn differently today, as near-copies are detected that were not when the study began, is
    the one the study stored.
    """
    from lungtune.data import dataset

    source = source or space.data or "phantom"
    inspection = dataset.inspect(source, seed=origin.split_seed)
    if not inspection.manifest.matches(origin.split):
        stored = _stored_split(origin)
        inspection = inspection.with_split(stored) if stored else inspection
    if inspection.audit.problems:
        raise DataError("the data can't be trained on as it is: " + " ".join(inspection.audit.problems))
    for guess in inspection.audit.unconfirmed:
        io.log_stderr(f"note: {guess}")
    if not inspection.manifest.matches(origin.split):
        raise DataError(
            f"{source} must hold the split the recipe was searched on ({origin.split[:12]}), but holds "
            f"{inspection.manifest.hash[:12]}: images, labels or patients differ, so scores can't be compared. "
            f"If the data lie elsewhere, name them with --data."
        )
    if test and not len(inspection.manifest.parts["test"]):
        raise DataError(f"{source} has no test part; leave out --test.")
    return inspection


def _stored_split(origin: recipe.Provenance) -> Manifest | None:
    """Return the split that the recipe's study stored; None if the study is not here or stored another one."""
    from lungtune.data.manifest import Manifest

    if origin.study not in Study.names():
        return None
    study = Study(paths.studies() / origin.study)
    try:
        stored = Manifest.load(study.split_path)
    except DataError:
        return None
    return stored if stored.matches(origin.split) else None


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the exclusive right to write to ``folder``."""

    def busy(holder: str) -> StudyError:
        return StudyError(f"{holder} is retraining into {folder}; wait for it or choose another --out.")

    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(io.exclusive(folder / ".lock", busy))
        except OSError as error:
            raise StudyError(f"{folder} must be writable, but: {error.strerror}.") from error
        yield
