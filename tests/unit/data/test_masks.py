"""Lung masks: discovery, validation, alignment with their images, loading only on request."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from lungtune.core.fields import IMAGE, LABEL, MASK
from lungtune.data import report, store
from lungtune.data.dataset import inspect, load, missing
from lungtune.data.manifest import Manifest
from lungtune.data.readers import images
from lungtune.data.sources import absolute, index_source
from lungtune.errors import DataError


@pytest.fixture
def source(write, tmp_path):
    """60 images of 40 x 32 and, for the first 25 of each class, masks of 20 x 16 in a folder of their own."""
    for number, label in enumerate(("normal", "viral")):
        for i in range(30):
            write(f"{label}/{i:02}.png", 1000 * number + i)
            if i < 25:
                mask = np.zeros((16, 20), np.uint8)
                mask[2:8, i % 10 : 15] = 255
                save(tmp_path / f"masks/{label.upper()}/{i:02}.png", mask)
    return f"folder:{tmp_path / 'data'},masks={tmp_path / 'masks'}"


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def saved(path):
    return np.asarray(Image.open(path))


def test_masks_lie_over_their_images(source, tmp_path):
    inspection = inspect(source)
    assert inspection.audit.problems == ()
    assert inspection.audit.masks == 50
    data = load(inspection, [IMAGE, MASK], 64, test=True)
    for part in (data.train, data.validation, data.test):
        assert part["mask"].shape == part["image"].shape
        assert part["mask"].dtype == np.uint8
        assert not part["mask"].flags.writeable
        for case, mask, masked in zip(part.case_ids, part["mask"][:, 0], part.has("mask"), strict=True):
            label, name = case.split("/")
            assert masked == (int(name[:2]) < 25)
            if masked:
                small = np.asarray(Image.open(tmp_path / "masks" / label.upper() / name).resize((64, 51), 0))
                assert np.array_equal(mask[6:57], small)
                assert mask[:6].max() == mask[57:].max() == 0
            else:
                assert mask.max() == 0


def test_masks_are_decoded_only_on_request(source, cache):
    inspection = inspect(source)
    part = load(inspection, [IMAGE, LABEL], 16).train
    assert "mask" not in part
    assert not part.has("mask").any()
    assert not list((cache / "pixels").glob("masks-*"))


def test_masks_of_data_without_any_are_refused(source):
    """Before data sets were fields, load() returned no masks and its caller refused; now load() itself does."""
    inspection = inspect(source.partition(",masks")[0])
    sentence = (
        f"res_unet needs lung masks, but {inspection.source} names none. Name their folder, as in "
        "chest_xray:DIR,masks=DIR2, or give a table with a column 'mask'."
    )
    assert missing(inspection, [IMAGE, MASK], "res_unet") == sentence
    with pytest.raises(DataError, match=f"^The model{re.escape(sentence.removeprefix('res_unet'))}$"):
        load(inspection, [IMAGE, MASK], 16)


def test_masks_of_test_images_alone_are_refused(source):
    manifest = inspect(source).manifest
    train = dataclasses.replace(manifest.parts["train"], mask=(), mask_sha1=())
    result = dataclasses.replace(manifest, parts={**manifest.parts, "train": train})
    assert (
        missing(result, [MASK], "unet") == f"unet needs lung masks, but no training image of {result.source} has one."
    )


def test_masks_are_decoded_once_whatever_the_split(source, tmp_path, monkeypatch):
    split = tmp_path / "split.json"
    inspect(source).save(split)
    first = load(split, [MASK], 16)
    monkeypatch.setattr(store, "letterboxed_mask", None)
    assert np.array_equal(load(split, [MASK], 16).train["mask"], first.train["mask"])
    load(inspect(source, fold=1), [MASK], 16)


def test_a_mask_that_changed_is_reported(source, tmp_path):
    inspection = inspect(source)
    for file in (tmp_path / "masks").rglob("*.png"):
        save(file, np.full((16, 20), 255, np.uint8))
    with pytest.raises(DataError, match=r"The mask .*\.png must be the one that was scanned"):
        load(inspection, [MASK], 16)
    load(inspection, [IMAGE], 16)


def test_an_image_that_changed_is_reported(source, tmp_path):
    inspection = inspect(source)
    for file in (tmp_path / "data").rglob("*.png"):
        save(file, np.full((32, 40), 7, np.uint8))
    entries = inspection.manifest.parts["train"]
    with pytest.raises(DataError, match=r"The image .*\.png must be the one that was scanned"):
        store.open_masks(entries.mask, entries.mask_sha1, entries.path, entries.sha1, 16, "train")


def test_masks_of_zeros_and_ones_are_those_of_zeros_and_255(source, tmp_path):
    white = load(inspect(source), [MASK], 16).train["mask"].copy()
    for file in (tmp_path / "masks/NORMAL").rglob("*.png"):
        save(file, saved(file) // 255)
    inspection = inspect(source)
    assert inspection.audit.problems == ()
    assert "values 1 (25 masks), 255 (25 masks): all but 0 is lung" in inspection.audit.inventory["masks"]
    assert np.array_equal(load(inspection, [MASK], 16).train["mask"], white)


def test_dicom_masks_are_refused():
    with pytest.raises(images.UnreadableImageError, match=r"is an X-ray .* but a mask must be PNG or JPEG"):
        images.letterboxed_mask(bytes(128) + b"DICM", encoded(np.zeros((8, 8), np.uint8)), 8)


def encoded(values, **options):
    import io

    stream = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(stream, options.pop("kind", "PNG"), **options)
    return stream.getvalue()


def test_any_channel_counts_and_transparency_does_not():
    image, mask = encoded(np.zeros((8, 8), np.uint8)), np.zeros((8, 8, 4), np.uint8)
    mask[..., 3] = 255
    mask[0, 0, 0], mask[1, 1, 1], mask[2, 2, 2], mask[3, 3] = 128, 255, 200, (127, 127, 127, 255)
    result = images.letterboxed_mask(encoded(mask), image, 8)
    assert [tuple(at) for at in np.argwhere(result)] == [(0, 0), (1, 1), (2, 2)]
    assert result.max() == 255
    opaque = images.letterboxed_mask(encoded(mask[..., :3]), image, 8)
    assert np.array_equal(result, opaque)
    wide = mask[..., 0].astype(np.uint16) * 257
    assert images.letterboxed_mask(encoded(wide), image, 8)[0, 0] == 255
    one_bit = Image.fromarray(mask[..., 0]).point(lambda v: 255 * (v > 127)).convert("1")
    assert images.letterboxed_mask(encoded(one_bit), image, 8).sum() == 255


@pytest.mark.parametrize("size", [(299, 299), (300, 200), (199, 301), (1000, 3)])
@pytest.mark.parametrize("side", [64, 224])
def test_a_white_mask_covers_its_image_exactly(size, side):
    image = encoded(Image.new("L", size, 255))
    mask = encoded(Image.new("L", (max(1, size[0] // 3), max(1, size[1] // 3)), 255))
    assert np.array_equal(images.letterboxed_mask(mask, image, side), images.letterboxed(image, side))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_follow_the_orientation_of_their_image(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encoded(Image.new("L", (60, 20), 255), kind="JPEG", exif=exif)
    upright = (20, 60) if orientation > 4 else (60, 20)
    covered = images.letterboxed_mask(encoded(Image.new("L", upright, 255)), image, 48)
    assert np.array_equal(covered > 0, images.letterboxed(image, 48) > 127)


def test_the_audit_names_masks_that_do_not_fit(source, tmp_path, capsys):
    save(tmp_path / "masks/NORMAL/03.png", np.full((20, 20), 255, np.uint8))
    save(tmp_path / "masks/NORMAL/05.png", np.full((320, 401), 255, np.uint8))  # a rounding
    (tmp_path / "masks/VIRAL/04.png").write_bytes(b"no")
    checked = inspect(source).audit
    unreadable, odd = checked.problems
    assert unreadable.startswith("Every mask must be readable, but 1 of 50 are not: ")
    assert re.search(r"VIRAL/04\.png is neither PNG nor JPEG nor DICOM .*\. Mend them", unreadable)
    assert odd == (
        "A mask must have its image's aspect ratio, but 1 of 50 have another: "
        "normal/03.png has 40 x 32 pixels, its mask 20 x 20."
    )
    assert checked.masks == 49
    assert report.check(source) == 2
    assert "Lung masks: 49 of 60 images" in capsys.readouterr().out


def test_the_audit_counts_masks_and_names_images_without(source, capsys):
    checked = inspect(source).audit
    assert type(checked).from_dict(json.loads(json.dumps(checked.to_dict()))) == checked
    warning = next(w for w in checked.warnings if "no mask" in w)
    assert warning.startswith("10 of 60 images have no mask while others do: normal/25.png, normal/26.png, ")
    assert report.check(source) == 0
    assert "Lung masks: 50 of 60 images" in capsys.readouterr().out


def test_a_table_that_names_missing_masks(write, tmp_path):
    lines = ["path,label,mask"]
    for i in range(60):
        write(f"{i}.png", i)
        save(tmp_path / f"data/m/{i}.png", np.full((32, 40), 255, np.uint8))
        lines.append(f"{i}.png,{'ab'[i % 2]},m/{i}.png")
    (tmp_path / "data/t.csv").write_text("\n".join(lines))
    source = f"table:{tmp_path / 'data/t.csv'}"
    part = load(inspect(source), [MASK], 16).train
    assert part.has("mask").all()
    assert (part["mask"][:, 0, 2:14] == 255).all()
    (tmp_path / "data/m/7.png").unlink()
    with pytest.raises(DataError, match=r"Every mask must be readable, but 1 of 60 are not: .*m/7\.png does not exist"):
        load(inspect(source), [MASK], 16)


def test_the_option_masks(source, write, tmp_path, monkeypatch):
    save(tmp_path / "masks/NORMAL/00.jpeg", np.zeros((16, 20), np.uint8))
    cases = index_source(source).set_index("case_id")
    assert cases.loc["normal/00.png", "mask_path"] == str(tmp_path / "masks/NORMAL/00.png")
    nested = tmp_path / "elsewhere/inner"
    nested.parent.mkdir()
    (tmp_path / "masks").rename(nested)
    cases = index_source(f"folder:{tmp_path / 'data'},masks={nested.parent}")
    assert cases["mask_path"].notna().sum() == 50
    monkeypatch.chdir(tmp_path)
    assert absolute("folder:data,masks=m,patient=x") == f"folder:{tmp_path}/data,masks={tmp_path}/m,patient=x"


def test_the_option_masks_takes_the_image_suffix_too(write, tmp_path):
    write("data/a/1.jpeg")
    write("data/b/2.jpeg")
    save(tmp_path / "m/a/1.jpeg", np.zeros((32, 40), np.uint8))
    cases = index_source(f"folder:{tmp_path / 'data'},masks={tmp_path / 'm'}")
    assert list(cases["mask_path"]) == [str(tmp_path / "m/a/1.jpeg"), None]


def test_the_option_masks_must_match(source, tmp_path):
    plain = source.partition(",masks")[0]
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"matches none of 60 images: there is no .*other/normal/00\.png, for one"):
        index_source(f"{plain},masks={tmp_path / 'other'}")
    with pytest.raises(DataError, match=r"The folder .*mask does not exist\. Did you mean 'masks'"):
        index_source(f"{plain},masks={tmp_path / 'mask'}")
    with pytest.raises(DataError, match="'masks' is not an option of 'table'"):
        index_source(f"table:{tmp_path / 't.csv'},masks={tmp_path}")


def test_chest_xray_masks(write, tmp_path):
    write("chest_xray/train/NORMAL/IM-1.jpeg")
    write("chest_xray/val/PNEUMONIA/person1_virus_1.jpeg")
    save(tmp_path / "m/train/NORMAL/IM-1.png", np.zeros((32, 40), np.uint8))
    save(tmp_path / "m/val/PNEUMONIA/person1_virus_1.png", np.zeros((32, 40), np.uint8))
    cases = index_source(f"chest_xray:{tmp_path / 'data'},masks={tmp_path / 'm'}")
    assert cases["mask_path"].notna().all()


def test_cxr4_masks(write, tmp_path):
    write("train/NORMAL/1.jpeg")
    write("train/COVID19/2.jpg")
    save(tmp_path / "m/train/NORMAL/1.png", np.zeros((32, 40), np.uint8))
    cases = index_source(f"cxr4:{tmp_path / 'data'},masks={tmp_path / 'm'}")
    assert list(cases["mask_path"].notna()) == [False, True]


def test_only_masks_change_the_hash_and_old_splits_still_verify(source, tmp_path):
    with_masks, without = inspect(source).manifest, inspect(source.partition(",masks")[0]).manifest
    assert with_masks.hash != without.hash
    assert with_masks.without("mask").hash == without.hash
    assert with_masks.matches(without.hash)
    without.verify(with_masks)
    with pytest.raises(DataError, match="content, label, group, part or mask"):
        with_masks.verify(without)
    train = with_masks.parts["train"]
    first = next(i for i, digest in enumerate(train.mask_sha1) if digest)
    other = tuple("0" * 40 if i == first else digest for i, digest in enumerate(train.mask_sha1))
    parts = {**with_masks.parts, "train": dataclasses.replace(train, mask_sha1=other)}
    assert dataclasses.replace(with_masks, parts=parts).hash != with_masks.hash
    moved = dataclasses.replace(train, mask=tuple(path and f"/elsewhere{path}" for path in train.mask))
    assert dataclasses.replace(with_masks, parts={**with_masks.parts, "train": moved}).hash == with_masks.hash
    with_masks.save(tmp_path / "s.json")
    assert Manifest.load(tmp_path / "s.json") == with_masks


OLD = (
    '{"schema":1,"hash":"b5cfc5b2c60e17c1705d1194bd07ef144b7d9f484a118c4c23dd17dcbc9d5244","classes":["a","b"],"parts":{"train":{"case_id":["x","y"],"label":["a","b"],'
    '"group":["x","y"],"sha1":["0","1"],"path":["/d/x","/d/y"]},"validation":{"case_id":["v"],"label":["a"],'
    '"group":["v"],"sha1":["2"],"path":["/d/v"]},"test":{"case_id":[],"label":[],"group":[],"sha1":[],"path":[]}},'
    '"excluded":{"z":"unreadable"},"seed":0,"folds":5,"fold":0,"source":"folder:/d","notes":["a note"],"audit":null}'
)


def test_manifests_without_masks_load(tmp_path):
    (tmp_path / "old.json").write_text(OLD)
    manifest = Manifest.load(tmp_path / "old.json")
    assert manifest.parts["train"].mask == (None, None)
    assert not manifest.masked
