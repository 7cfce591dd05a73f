"""Meaning of folder and file names: parts, images, masks, left-overs of operating systems."""

from __future__ import annotations

import re


def word_set(text: str) -> frozenset[str]:
    """Return the words between blanks."""
    return frozenset(text.split())


SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of official parts as folders and tables spell them (lower case) -> the name used here."""

_JOINED = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:set|data|dataset|images|imgs)")
_FILLERS = word_set(
    "set sets data dataset images image imgs img split part folder cases samples xray xrays x ray rays cxr cxrs chest "
    "png jpg jpeg dicom dcm files"
)
_IMAGES = word_set(
    "images image imgs img pictures scans radiographs xray xrays x ray rays cxr cxrs chest png jpg jpeg dicom dcm "
    "original originals input inputs raw"
)
_MASK = re.compile(r"(?!un)\w*masks?|(?:\w*[^\W_])?segmentations?|(?:lung)?segs?|contours?|groundtruths?")
_LUNG = re.compile(r"lungs?(masks?|segs?|segmentations?)?")
_PERHAPS_MASKS = word_set("labels label annotations annotation gt ground truth segmented masked")
_NOT = word_set("no non not without un")
_OTHER_ORGANS = word_set(
    "infection infections lesion lesions nodule nodules heart clavicle clavicles rib ribs opacity pneumothorax trachea "
    "spine diaphragm"
)
_JUNK = word_set(
    "__macosx thumbs.db ehthumbs.db desktop.ini @eadir #recycle $recycle.bin lost+found thumbnails thumbs"
) | {"system volume information", "icon\r"}
_MASK_STEM = re.compile(
    r"(?P<before>.+?)[ _.-]+(?:lungs?[ _-]*)?(?:masks?|seg|segmentation|label|gt)|masks?[ _.-]+(?P<after>.+)",
    re.IGNORECASE,
)


def junk(name: str) -> bool:
    """True if a file or folder is left by an operating system, a file server or an archive, not data."""
    return name.startswith(".") or name.lower() in _JUNK


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: `CXR_png`, `leftMask`, `train-2` have two each."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", name)
    return [word for word in re.split(r"[\W_]+", spaced.lower()) if word]


def part(name: str) -> str | None:
    """Return the official part that a folder name means, such as `Training Set`; None where it means none, or two."""
    held = {SPLIT_NAMES.get(word) for word in _plain(name) if word not in _FILLERS}
    return held.pop() if len(held) == 1 else None


def mentions_part(name: str) -> bool:
    """True if a folder name has a part among its words, such as `test 2`."""
    return any(word in SPLIT_NAMES for word in _plain(name))


def _plain(name: str) -> list[str]:
    return [match.group(1) if (match := _JOINED.fullmatch(word)) else word for word in words(name)]


def for_images(name: str) -> bool:
    """True if a folder name means images and nothing else, such as `images` or `CXR_png`."""
    held = words(name)
    return bool(held) and _IMAGES.issuperset(held)


def for_masks(name: str, beside_images: bool) -> bool:
    """True if a folder name means masks.

    Args:
        name: of the folder.
        beside_images: True if a folder of images lies beside it: `labels` and `annotations` mean masks there only.
    """
    held = words(name)
    if _NOT.intersection(held):
        return False
    return any(_MASK.fullmatch(word) for word in held) or (beside_images and bool(_PERHAPS_MASKS.intersection(held)))


def side(name: str) -> str:
    """Return `left` or `right` if a folder of masks is of one lung, else an empty string."""
    held = words(name)
    return next((word for word in ("left", "right") if any(w.startswith(word) for w in held)), "")


def organ(name: str) -> str:
    """Return `lung`, `other` or an empty string: what a folder of masks says that its masks show."""
    held = words(name)
    if _OTHER_ORGANS.intersection(held):
        return "other"
    return "lung" if any(_LUNG.fullmatch(word) for word in held) else ""


def mask_of(stem: str) -> str | None:
    """Return the stem of the image that a mask's file name begins or ends with: of `x_mask` and `mask-x` it is `x`."""
    match = _MASK_STEM.fullmatch(stem)
    return (match["before"] or match["after"]) if match else None
