"""Preparation of a recipe for training: its space, data, ledger and output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune import catalog
from lungtune.core import io, ledger, paths, recipe
from lungtune.core.ledger import Asker, Ledger, Opening
from lungtune.core.locked_part import LockedPart
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
    """Return the ledger of a recipe's test set, before its content is known.

    Its own file is the study's, or one next to the recipe if the study is not on this machine. The ledgers of all
    studies here count, as those of version 0.1 were kept nowhere else.

    Raises:
        StudyError: a study of that name is here, but its journal can't be read.
    """
    near = path.resolve().parent / "ledger.jsonl"
    study = Study.of_id(origin.study_id, origin.study)
    if study is not None:
        study.check_links()
    question = origin.question or (ledger.question(study.first()) if study else "")
    asker = Asker(origin.study_id, origin.study, question)
    return _ledger(asker, study.ledger_path if study else near, [near])


def _ledger(asker: Asker, own: Path, also: Sequence[Path] = ()) -> Ledger:
    """Return the ledger of a study, all files but those beside the data."""
    others = sorted(paths.studies().glob("*/ledger.jsonl"))
    home, cache = paths.home() / ledger.NAME, paths.cache() / ledger.NAME
    return Ledger(own, asker, home, [cache], [*also, *others], part_of)


def part_of(study_id: str) -> LockedPart | None:
    """Return the test part of a study, by its id; None if the study or its split is not here."""
    from lungtune.data.manifest import Manifest

    for name in Study.names():
        study = Study(paths.studies() / name)
        if study.first().get("id") == study_id:
            try:
                return Manifest.load(study.split_path).locked
            except DataError:
                continue
    return None


def locate(book: Ledger, manifest: Manifest) -> None:
    """Tell a ledger the test part, and the files that hold its openings besides: those beside the data.

    The openings of generated images are recorded in the home alone: other images cost nothing. Nothing is written
    beside data in the cache or in the package.
    """
    from lungtune.data import sources

    book.part = manifest.locked
    folder = sources.folder_of(manifest.source)
    if folder is None:
        book.also, book.copies = [*book.also, *book.copies], ()
    elif not any(folder.is_relative_to(other) for other in (paths.cache(), paths.PACKAGE)):
        mine, there = ledger.beside(folder)
        book.copies, book.also = [*book.copies, mine], [*book.also, *there]


def openings(manifest: Manifest) -> list[Opening]:
    """Return the known openings of a split's test part, or of one that shares at least half of its images.

    Raises:
        StudyError: a ledger can't be read.
    """
    book = _ledger(Asker("", ""), paths.home() / ledger.NAME)
    locate(book, manifest)
    return [each for each in book.openings() if each.part and manifest.locked.same(each.part)]


def journal_opening(origin: recipe.Provenance, opening: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Write an opening into the journal of the recipe's study, for tracking, if the study is here and nobody holds it.

    Args:
        origin: of the recipe.
        opening: ``Opening.to_dict()``, and ``file`` and ``recipe``.
        scores: on the test part.
    """
    with suppress(StudyError):
        study = Study.of_id(origin.study_id, origin.study)
        if study is not None and study.try_acquire():
            try:
                study.append("test", **opening, metrics=dict(scores))
            finally:
                study.release()


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

    study = Study.of_id(origin.study_id, origin.study)
    if study is None:
        return None
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
