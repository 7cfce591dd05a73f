"""Reading of a folder tree: which files are images and which masks, and what each folder name means.

Folders below the root are, by name and neighbours,

- masks (`masks`, `lung masks`, `labels` beside `images`, ...): never read as images, whatever lies in them;
- images (`images`, `CXR_png`): a level without a meaning;
- parts (`train`, `Test Set`), above or below the classes;
- classes; what lies below a class belongs to it.

A file `x_mask.png` beside `x.png` is a mask too. A mask belongs to the image of the same path once the levels of images
and masks are left out of both; where there is none, to the only image of its name next to its folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lungtune.data.inventory import Guess, Inventory
from lungtune.data.mask_files import joined
from lungtune.data.sources import _names
from lungtune.data.sources._files import elsewhere, is_image, named, suffix, walk
from lungtune.errors import DataError

_DOCUMENTS = _names.word_set(
    ".txt .md .rst .pdf .csv .tsv .json .xml .html .htm .doc .docx .xls .xlsx .odt .py .ipynb .m .r .log .yaml .yml "
    ".ini .bib .tex .sh .url .lnk .db .sqlite .lock"
)
_IDS, _FEW = 8, 20  # more class folders than that, all numbered and of fewer images, are patients


@dataclass(frozen=True)
class Case:
    """One image.

    Attributes:
        file: its path.
        folder: name of its class folder; None without classes.
        split: its official part, or None.
        mask: path of its mask, see `mask_files`; or None.
    """

    file: Path
    folder: str | None
    split: str | None
    mask: str | None


@dataclass
class Layout:
    """Images and class folders of a folder tree.

    Attributes:
        cases: all images.
        folders: names of the class folders, also of empty ones.
        left: image or mask that is not used -> reason.
    """

    cases: list[Case]
    folders: list[str]
    left: dict[Path, str]


class _Image(NamedTuple):
    file: Path
    key: tuple[str, ...]  # names of the folders with a meaning, and the stem, in lower case
    folder: str | None
    split: str | None


class _Mask(NamedTuple):
    file: Path
    key: tuple[str, ...]
    scope: tuple[str, ...]  # of the folder that holds the folder of masks
    side: str
    organ: str


@dataclass
class _Folder:
    path: Path
    folders: list[_Folder] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    def below(self) -> Iterator[_Folder]:
        yield self
        for folder in self.folders:
            yield from folder.below()

    def count(self) -> int:
        return sum(len(folder.images) for folder in self.below())


def understand(root: Path, inventory: Inventory) -> Layout:
    """Read the tree below `root`.

    Args:
        root: of the data set.
        inventory: gets the meaning of folders, how masks were paired, and guesses.

    Raises:
        DataError: no class folders and no masks, classes and parts side by side, a part that is not understood, class
            folders that seem to be patients, or a mask that fits two images.
    """
    reader = _Reader(root, inventory)
    reader.visit(_tree(root), ())
    return reader.layout()


def of_names(root: Path, wanted: Callable[[str], bool], inventory: Inventory) -> tuple[list[Case], dict[Path, str]]:
    """Return the images below `root` that their file names identify, with their masks.

    Args:
        root: of the data set.
        wanted: True for the stem of an image.
        inventory: gets which folders are masks and how they were paired.

    Returns:
        The cases, without classes, and images and masks that are not used -> why.

    Raises:
        DataError: a mask fits two images, or an image has two masks.
    """
    reader = _Reader(root, inventory)
    reader.visit_all(_tree(root), ())
    others = [image.file for image in reader.images if not wanted(image.file.stem)]
    reader.left.update(dict.fromkeys(others, "of another name"))
    images = [image for image in reader.images if wanted(image.file.stem)]
    masks = reader.paired(images)
    return [Case(i.file, None, None, masks.get(i.file)) for i in images], reader.left


def _tree(root: Path) -> _Folder:
    known: dict[Path, _Folder] = {}
    for path, names in walk(root):
        folder = known[path] = _Folder(path)
        if path != root:
            known[path.parent].folders.append(folder)
        for file in (path / name for name in names):
            (folder.images if is_image(file) else folder.others).append(file)
    return known[root]


class _Reader:
    def __init__(self, root: Path, inventory: Inventory) -> None:
        self.root = root
        self.inventory = inventory
        self.images: list[_Image] = []
        self.masks: list[_Mask] = []
        self.left: dict[Path, str] = {}
        self.classes: list[str] = []
        self.unread: Counter[str] = Counter()

    def visit(
        self,
        folder: _Folder,
        key: tuple[str, ...],
        label: str | None = None,
        split: str | None = None,
        inside: bool = False,
    ) -> None:
        """Read one folder.

        Args:
            folder: to read.
            key: names of the folders above that have a meaning.
            label: name of its class folder.
            split: its part.
            inside: True below a class folder, where no folder is a part.
        """
        beside = any(_names.for_images(f.name) and f.count() for f in folder.folders)
        masks = [f for f in folder.folders if _names.for_masks(f.name, beside) and not self._container(f)]
        for each in masks:
            self._note(each, "masks")
            self._take_masks(each, key, key, _names.side(each.name), _names.organ(each.name))
        self._take_images(folder, key, label, split)
        rest = [f for f in folder.folders if f not in masks]
        filled = [f for f in rest if f.count()]
        parts = {f.path: _names.part(f.name) for f in filled} if split is None else {}
        if inside and any(parts.values()):
            seen = next(f.path for f in filled if parts[f.path]).relative_to(self.root).as_posix()
            self._guess(Guess("parts", f"Folders deep in a class are no official parts, though named so: {seen}."))
        elif any(parts.values()):
            self._at_parts(folder, filled, parts, label)
            for each in rest:
                if each in filled:
                    self._note(each, f"part {parts[each.path]}")
                    self.visit(each, (*key, each.name.lower()), label, parts[each.path])
                elif any(inner.others for inner in each.below()):
                    self._without_images(each)
            return
        holders = [f for f in filled if _names.for_images(f.name)]
        if holders and (masks or len(holders) == len(filled)):
            strangers = [f for f in filled if f not in holders]
            if strangers and label is None:
                raise DataError(
                    f"Beside {holders[0].path} there must be only masks, but '{strangers[0].name}' holds images too. "
                    f"Leave one out, as in ignore={strangers[0].name}."
                )
            for each in holders:
                self._note(each, "images")
                self.visit(each, key, label, split, inside)
            rest = filled = strangers
        for each in filled if label is not None else ():
            self.visit(each, (*key, each.name.lower()), label, split, True)
        if label is None:
            self._at_classes(folder, rest, filled, key, split)

    def visit_all(self, folder: _Folder, key: tuple[str, ...]) -> None:
        """Read a tree of images and masks without classes and parts."""
        self._take_images(folder, key, None, None)
        beside = any(_names.for_images(f.name) and f.count() for f in folder.folders)
        for each in folder.folders:
            if _names.for_masks(each.name, beside) and not self._container(each):
                self._note(each, "masks")
                self._take_masks(each, key, (), _names.side(each.name), _names.organ(each.name))
            else:
                if each.count():
                    self._note(each, "images")
                self.visit_all(each, key if _names.for_images(each.name) else (*key, each.name.lower()))

    def _container(self, folder: _Folder) -> bool:
        """True if a folder has the name of a folder of masks, but holds both a folder of images and one of masks."""
        names = [inner.name for inner in folder.below() if inner is not folder and inner.count()]
        return any(_names.for_images(n) for n in names) and any(_names.for_masks(n, True) for n in names)

    def _at_parts(
        self, folder: _Folder, filled: list[_Folder], parts: dict[Path, str | None], label: str | None
    ) -> None:
        """Verify that all folders are parts, and note guesses.

        Raises:
            DataError: some are not parts.
        """
        strangers = [f.name for f in filled if not parts[f.path]]
        part = next(f.name for f in filled if parts[f.path])
        if strangers and label is None:
            raise DataError(
                f"{folder.path} must hold either class folders or part folders, but it holds both: '{strangers[0]}' "
                f"beside '{part}'. Leave one out, as in ignore={strangers[0]}."
            )
        if label is not None and (strangers or folder.images):
            other = f"'{strangers[0]}'" if strangers else folder.images[0].name
            raise DataError(
                f"{folder.path} must hold either parts of its class or no folder of such a name, but '{part}' lies "
                f"beside {other}. Rename it, or leave one out with ignore=GLOB."
            )
        odd = sorted({f.name for f in filled if f.name.lower() not in _names.SPLIT_NAMES})
        if odd or label is not None:
            shown = named([f"'{f.name}' is {parts[f.path]}" for f in filled])
            where = f" in the class '{label}'" if label is not None else ""
            self._guess(Guess("parts", f"Folder names{where} were read as official parts: {shown}.", "official=no"))

    def _guess(self, guess: Guess) -> None:
        if guess.about != "parts" or not any(known.about == "parts" for known in self.inventory.guesses):
            self.inventory.guesses.append(guess)

    def _at_classes(
        self,
        folder: _Folder,
        rest: list[_Folder],
        filled: list[_Folder],
        key: tuple[str, ...],
        split: str | None,
    ) -> None:
        for each in filled:
            if _names.for_masks(each.name, False):
                raise DataError(
                    f"{folder.path} must hold one data set, but '{each.name}' is one in it: images and masks. Give "
                    f"that one, as in folder:{each.path}."
                )
            if _names.mentions_part(each.name):
                raise DataError(
                    f"A class folder must not be named like a part, but {each.path} is. Name parts train, val and "
                    f"test, or leave it out with ignore={each.name}."
                )
        numbered = [f for f in filled if f.name[-1:].isdigit()]
        few = folder.count() < _FEW * len(filled)
        if few and len(filled) > _IDS and len(numbered) > 0.9 * len(filled):
            raise DataError(
                f"{folder.path} must hold one folder per class, but its {len(filled)} folders seem to be patients: "
                f"{named([f.name for f in numbered], 3)}. Put them into class folders, or write a table."
            )
        for each in rest:
            if not each.count():
                self._without_images(each)
                continue
            self._note(each, f"class {_label(each.name)}")
            self.classes.append(each.name)
            self.visit(each, (*key, each.name.lower()), each.name, split)
        same = [names for names in _grouped(f.name for f in filled) if len(names) > 1]
        if same:
            raise DataError(
                f"Class folders must have different names, but in {folder.path} these are one class: "
                f"{named([repr(n) for n in same[0]])}. Rename or merge them."
            )

    def _without_images(self, folder: _Folder) -> None:
        """Note a folder without images where classes lie: a class if it is empty, else left out.

        Raises:
            DataError: it holds files that may be images of a format that is not read.
        """
        files = [file for inner in folder.below() for file in inner.others]
        if not files:
            self._note(folder, f"class {_label(folder.name)}")
            self.classes.append(folder.name)
            return
        unread = Counter(suffix(file) or file.name for file in files if suffix(file) not in _DOCUMENTS and suffix(file))
        if unread and not _names.for_masks(folder.name, True):
            raise DataError(
                f"{folder.path} must hold images that can be read, but holds {sum(unread.values())} files "
                f"({named(sorted(unread))}). Convert them, as to PNG, or leave the folder out with "
                f"ignore={folder.name}."
            )
        self._note(folder, "left out")

    def _note(self, folder: _Folder, meaning: str) -> None:
        self.inventory.folders[folder.name] = meaning

    def _take_images(self, folder: _Folder, key: tuple[str, ...], label: str | None, split: str | None) -> None:
        stems = {file.stem.lower() for file in folder.images}
        self.unread.update(end for file in folder.others if (end := suffix(file)) and end not in _DOCUMENTS)
        for file in folder.images:
            of = _names.mask_of(file.stem)
            if of is not None and (of.lower() in stems or "mask" in file.stem.lower()):
                self.masks.append(
                    _Mask(file, (*key, file.stem.lower()), key, "", _names.organ(file.stem.replace(of, "", 1)))
                )
            else:
                self.images.append(_Image(file, (*key, file.stem.lower()), label, split))

    def _take_masks(self, folder: _Folder, key: tuple[str, ...], scope: tuple[str, ...], side: str, organ: str) -> None:
        self.masks += [_Mask(file, (*key, file.stem.lower()), scope, side, organ) for file in folder.images]
        for inner in folder.folders:
            inner_side, inner_organ = _names.side(inner.name), _names.organ(inner.name)
            level = inner_side or inner_organ or _names.for_images(inner.name) or _names.for_masks(inner.name, True)
            below = key if level else (*key, inner.name.lower())
            self._take_masks(inner, below, scope, inner_side or side, inner_organ or organ)

    def layout(self) -> Layout:
        """Return all cases, masks paired.

        Raises:
            DataError: there is neither a class nor a mask, or a mask fits two images.
        """
        images = self.images
        labelled = [image for image in images if image.folder is not None]
        if labelled and len(labelled) < len(images):
            loose = [image.file for image in images if image.folder is None]
            images = labelled
            self.left.update(dict.fromkeys(loose, "beside the class folders"))
            shown = named([file.relative_to(self.root).as_posix() for file in loose], 3)
            self.inventory.guesses.append(
                Guess("labels", f"{len(loose)} images lie beside the class folders and are left out: {shown}.")
            )
        masks = self.paired(images)
        if not labelled and (self.classes or not masks):
            raise DataError(self._nothing(images))
        names = {_label(name) for name in self.classes}
        if len(names) == 1 and masks:
            self.inventory.guesses.append(
                Guess("labels", f"The only folder of images, '{self.classes[0]}', is no class: data of masks alone.")
            )
            images, self.classes = [image._replace(folder=None) for image in images], []
        cases = [Case(i.file, i.folder, i.split, masks.get(i.file)) for i in images]
        return Layout(cases, self.classes, self.left)

    def _nothing(self, images: list[_Image]) -> str:
        if self.classes:
            seen = named([f"{kind} {count:,}" for kind, count in self.unread.most_common()], 6)
            unread = f" Files of formats that are not read lie there: {seen}." if seen else ""
            return f"{self.root} has class folders but no image in them.{unread}"
        if images:
            where = "in its part folders" if any(image.split for image in images) else "in it"
            seen = f"{len(images)} images lie {where} directly, and no masks of them"
        elif self.masks:
            seen = f"it holds {len(self.masks)} masks alone"
        else:
            seen = "it has no folders" if not self.inventory.folders else "its folders hold no image"
        remedy = "" if images else elsewhere(self.root, "folder")
        return f"{self.root} must hold one folder of images per class, but {seen}.{remedy}"

    def paired(self, images: list[_Image]) -> dict[Path, str]:
        """Return image -> its mask.

        Raises:
            DataError: a mask fits two images, or an image has two masks.
        """
        organs = {mask.organ for mask in self.masks}
        wanted = next((organ for organ in ("lung", "", "other") if organ in organs), "")
        by_key: dict[tuple[str, ...], list[_Image]] = {}
        by_stem: dict[str, list[_Image]] = {}
        for image in images:
            by_key.setdefault(image.key, []).append(image)
            by_stem.setdefault(image.key[-1], []).append(image)
        masks_of: dict[Path, list[_Mask]] = {}
        by_name, orphans = 0, 0
        for mask in self.masks:
            if mask.organ != wanted:
                self.left[mask.file] = "masks of something else"
                continue
            fits, exact = _fits(mask, by_key, by_stem)
            if len(fits) > 1:
                first, second = (image.file.relative_to(self.root).as_posix() for image in fits[:2])
                raise DataError(
                    f"A mask must belong to one image, but {mask.file.relative_to(self.root).as_posix()} fits {first} "
                    f"and {second}. Put masks under their images' relative paths, or leave them out with ignore=GLOB."
                )
            if not fits:
                self.left[mask.file] = "masks without an image"
                orphans += 1
                continue
            by_name += not exact
            masks_of.setdefault(fits[0].file, []).append(mask)
        paired = {file: self._one(file, masks) for file, masks in masks_of.items()}
        if self.masks:
            how = f"by relative path{f', {by_name} by file name alone' if by_name else ''}"
            halves = ", left and right united" if any(len(masks) > 1 for masks in masks_of.values()) else ""
            what = {"lung": "lung masks", "other": "masks (not named as of lungs)"}.get(wanted, "masks")
            lacking = f"; {orphans} masks have no image" if orphans else ""
            self.inventory.masks = f"{what} of {len(paired):,} of {len(images):,} images, {how}{halves}{lacking}"
            if not paired or wanted == "other":
                why = "fit no image" if not paired else "are not named as of lungs"
                self.inventory.guesses.append(Guess("masks", f"The masks in the data {why}.", "masks=DIR"))
        return paired

    def _one(self, image: Path, masks: list[_Mask]) -> str:
        """Return the path of an image's mask; of a left and a right one both, joined.

        Raises:
            DataError: there are several.
        """
        if len(masks) > 1 and sorted(mask.side for mask in masks) != ["left", "right"]:
            first, second = (mask.file.relative_to(self.root).as_posix() for mask in masks[:2])
            raise DataError(
                f"An image must have one mask, but {image.relative_to(self.root).as_posix()} has {first} and {second}. "
                "Leave one out with ignore=GLOB."
            )
        return joined([str(mask.file) for mask in sorted(masks, key=lambda mask: mask.side)])


def _fits(
    mask: _Mask, by_key: dict[tuple[str, ...], list[_Image]], by_stem: dict[str, list[_Image]]
) -> tuple[list[_Image], bool]:
    """Return the images that a mask may belong to, and True if by their relative path."""
    stems = [mask.key[-1], _names.mask_of(mask.key[-1])]
    for stem in filter(None, stems):
        fits = by_key.get((*mask.key[:-1], stem), [])
        if fits:
            return _same_suffix(fits, mask), True
    for stem in filter(None, stems):
        fits = [i for i in by_stem.get(stem, []) if i.key[: len(mask.scope)] == mask.scope]
        if fits:
            return fits, False
    return [], False


def _same_suffix(fits: list[_Image], mask: _Mask) -> list[_Image]:
    same = [image for image in fits if image.file.suffix.lower() == mask.file.suffix.lower()]
    return same if len(same) == 1 else fits


def _label(name: str) -> str:
    from lungtune.data.cases import label_name

    return label_name(name)


def _grouped(names: Iterable[str]) -> list[list[str]]:
    """Return the names grouped by class."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_label(name), []).append(name)
    return list(groups.values())
