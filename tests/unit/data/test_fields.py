"""Every kind of field, from real files through stores to arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from lungtune.core.fields import COLOUR, IMAGE, LABEL, LABELS, MASK, TABLE, TEXT, VOLUME
from lungtune.data.dataset import Part, inspect, load, missing
from lungtune.data.manifest import Manifest
from lungtune.errors import DataError


@pytest.fixture
def source(write, tmp_path):
    """60 colour-free images in a table with everything; every fifth case lacks text, edema and age."""
    lines = ["path,label,text,Edema,Pleural Effusion,age,mask"]
    (tmp_path / "data/m").mkdir(parents=True)
    for i in range(60):
        write(f"{i}.png", i)
        mask = "" if i % 4 == 0 else f"m/{i}.png"
        if mask:
            Image.fromarray(np.full((32, 40), 255, np.uint8)).save(tmp_path / "data" / mask)
        reported = ("", "", "") if i % 5 == 0 else (f"report {i}", i % 2, 20 + i)
        effusion = -1 if i % 10 == 3 else (i // 2) % 2
        lines.append(f"{i}.png,{'ab'[i % 2]},{reported[0]},{reported[1]},{effusion},{reported[2]},{mask}")
    (tmp_path / "data/t.csv").write_text("\n".join(lines))
    return f"table:{tmp_path / 'data/t.csv'},labels=edema|Pleural Effusion,columns=age"


EVERY = [IMAGE, MASK, LABEL, LABELS, TEXT, TABLE]


def test_every_field_has_its_shape_and_type(source):
    inspection = inspect(source)
    assert inspection.audit.problems == ()
    data = load(inspection, EVERY, 16, test=True)
    for part in (data.train, data.validation, data.test):
        n = len(part)
        got = {name: (array.shape, array.dtype.name) for name, array in part.fields.items() if name != "text"}
        assert got == {
            "image": ((n, 1, 16, 16), "uint8"),
            "mask": ((n, 1, 16, 16), "uint8"),
            "label": ((n,), "int64"),
            "labels": ((n, 2), "float32"),
            "table": ((n, 1), "float32"),
        }
        assert part["text"].dtype.kind == "U"
    assert data.classes == ("a", "b")
    assert data.manifest.label_names == ("edema", "pleural_effusion")
    assert data.manifest.columns == ("age",)


def test_values_belong_to_their_cases(source):
    part = load(inspect(source), EVERY, 16).train
    for row, case in enumerate(part.case_ids):
        i = int(case.removesuffix(".png"))
        reported = i % 5 != 0
        assert part["text"][row] == (f"report {i}" if reported else "")
        assert part.has("text")[row] == part.has("table")[row] == reported
        edema, effusion = part["labels"][row]
        assert np.isnan(edema) if not reported else edema == i % 2
        assert effusion == (0.5 if i % 10 == 3 else (i // 2) % 2)  # -1 is uncertain
        assert np.isnan(part["table"][row, 0]) if not reported else part["table"][row, 0] == 20 + i
        assert part.has("mask")[row] == (i % 4 != 0)
    assert part.has("labels").all()  # one of two known is known
    assert part.has("image").all()


def test_only_wanted_fields_are_decoded(source, cache):
    load(inspect(source), [LABELS, TEXT], 16)
    assert not (cache / "pixels").exists()


def test_saved_split_opens_every_field(source, tmp_path):
    inspection = inspect(source)
    inspection.save(tmp_path / "split.json")
    assert Manifest.load(tmp_path / "split.json") == inspection.manifest
    first, again = load(inspection, EVERY, 16), load(tmp_path / "split.json", EVERY, 16)
    for name in first.train.fields:
        equal_nan = name in ("labels", "table")
        assert np.array_equal(first.train[name], again.train[name], equal_nan=equal_nan)
        assert np.array_equal(first.train.has(name), again.train.has(name))


@pytest.mark.parametrize("column", ["text", "labels", "table"])
def test_hash_covers_optional_columns(source, column):
    manifest = inspect(source).manifest
    bare = manifest.without(column)
    assert bare.hash != manifest.hash
    assert manifest.matches(bare.hash)
    assert manifest.matches(manifest.without("mask", "text", "labels", "table").hash)
    assert not bare.matches(manifest.hash)
    bare.verify(manifest)


def test_hash_covers_values(source, tmp_path):
    before = inspect(source).manifest
    file = tmp_path / "data/t.csv"
    file.write_text(file.read_text().replace("report 7,", "another,"))
    after = inspect(source).manifest
    assert after.hash != before.hash
    with pytest.raises(DataError, match=r"1 images changed .* \(first: 7\.png\)"):
        before.verify(after)


def test_colour_images_keep_their_channels(tmp_path, cache):
    for i in range(20):
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, :, i % 3] = 200
        pixels[i % 16, i] = 255
        file = tmp_path / f"data/{'ab'[i % 2]}/{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    inspection = inspect(f"folder:{tmp_path / 'data'}")
    gray, colour = load(inspection, [IMAGE], 32).train, load(inspection, [COLOUR], 32).train
    assert gray["image"].shape[1:] == (1, 32, 32)
    assert colour["image"].shape[1:] == (3, 32, 32)
    for case, image in zip(colour.case_ids, colour["image"], strict=True):
        main = int(case.split("/")[1].removesuffix(".png")) % 3
        assert image[main, 8:24].min() >= 190
        assert image[(main + 1) % 3, 8:24].max() <= 255
        assert image[:, :8].max() == image[:, 24:].max() == 0
    assert len(list((cache / "pixels").glob("train-*.u8"))) == 2


def test_gray_images_in_colour_have_equal_channels(source):
    inspection = inspect(source)
    image = load(inspection, [COLOUR], 16).train["image"]
    gray = load(inspection, [IMAGE], 16).train["image"]
    assert np.array_equal(image, np.repeat(gray, 3, axis=1))


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        (MASK, "unet needs lung masks, but {} names none. Name their folder"),
        (LABELS, "unet needs several labels of each case, but {} names none. Name a data set"),
        (TEXT, "unet needs a text of each case, but {} names none. Give a table with a column 'text'"),
        (TABLE, "unet needs numbers of each case, but {} names none. Give a table"),
        (VOLUME, "unet needs volumes, but {} holds images. Give volumes"),
    ],
)
def test_missing_field_is_one_sentence(write, tmp_path, field, sentence):
    for i in range(60):
        write(f"{'ab'[i % 2]}/{i}.png", i)
    inspection = inspect(f"folder:{tmp_path / 'data'}")
    message = missing(inspection, [IMAGE, LABEL, field], "unet")
    assert message.startswith(sentence.format(inspection.source))
    assert message == missing(inspection.manifest, [field], "unet")
    assert missing(inspection, [IMAGE, LABEL]) == ""
    with pytest.raises(DataError, match=r"^The model needs "):
        load(inspection, [field], 16)


def test_scored_field_that_validation_lacks_is_reported(source):
    """Training masks alone train a segmenter, but score none."""
    inspection = inspect(source)
    parts = dict(inspection.manifest.parts)
    bare = (None,) * len(parts["validation"])
    parts["validation"] = dataclasses.replace(parts["validation"], mask=bare, mask_sha1=bare)
    manifest = dataclasses.replace(inspection.manifest, parts=parts)
    assert missing(inspection, [IMAGE, MASK], "unet", [MASK]) == ""
    assert missing(manifest, [IMAGE, MASK], "unet") == ""
    message = missing(manifest, [IMAGE, MASK], "unet", [MASK])
    assert message.startswith("unet needs lung masks to be scored by, but no validation image of ")
    assert message.endswith(" has one. Try another --seed.")


def test_two_fields_of_one_name_are_refused(source):
    with pytest.raises(ValueError, match="fields must have different names, but got image, image"):
        load(inspect(source), [IMAGE, COLOUR], 16)


def test_part_of_arrays_numbers_its_cases():
    part = Part.of(image=np.zeros((3, 1, 2, 2), np.uint8), label=[0, 1, 0])
    assert len(part) == 3
    assert part.patients.tolist() == part.case_ids.tolist() == ["0", "1", "2"]
    assert "label" in part
    assert "mask" not in part
    assert part.has("label").all()
    assert not part.has("mask").any()
    with pytest.raises(KeyError, match="'mask' was not loaded; loaded are image, label"):
        part["mask"]


@pytest.mark.parametrize("rows", [[2, 0], np.array([True, False, True])])
def test_selected_rows_keep_all_columns_together(rows):
    known = {"mask": np.array([True, True, False])}
    part = Part.of(label=[5, 6, 7], mask=np.zeros((3, 1, 2, 2)), known=known, patients=["x", "y", "z"])
    some = part.select(rows)
    assert dict(zip(some.patients.tolist(), some["label"].tolist(), strict=True)) == {"x": 5, "z": 7}
    assert some.has("mask").tolist() == [patient == "x" for patient in some.patients]


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="all columns must have 2 rows, but label has 3"):
        Part.of(image=np.zeros((2, 1, 1, 1)), label=[0, 1, 2])
