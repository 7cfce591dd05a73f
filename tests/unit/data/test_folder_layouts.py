"""Folder trees as users have them: masks, parts, formats, left-overs, files to leave out."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lungtune.core.fields import IMAGE, MASK
from lungtune.data import report
from lungtune.data.dataset import inspect, load
from lungtune.data.inventory import Inventory
from lungtune.data.manifest import Manifest
from lungtune.data.sources import _names, index_source, nlm
from lungtune.errors import DataError


def indexed(source):
    """Return case id -> label, part and mask's path below the data, and the inventory."""
    cases = index_source(source)
    root = source.partition(":")[2].partition(",")[0]
    rows = zip(cases["case_id"], cases["label"], cases["split"], cases["mask_path"], strict=True)
    found = {
        case: (label, split, mask and " + ".join(os.path.relpath(m, root) for m in mask.split("\0")))
        for case, label, split, mask in rows
    }
    return found, cases.attrs["inventory"]


def test_covid_qu_ex_with_lung_and_infection_masks(write, tmp_path):
    for part in ("Train", "Val", "Test"):
        for label in ("COVID-19", "Non-COVID", "Normal"):
            write(f"{part}/{label}/images/x 1.png")
            write(f"{part}/{label}/lung masks/x 1.png")
        write(f"{part}/COVID-19/infection masks/x 1.png")
    found, inventory = indexed(f"folder:{tmp_path / 'data'}")
    parts = {"Train": "train", "Val": "validation", "Test": "test"}
    labels = {"COVID-19": "covid_19", "Non-COVID": "non_covid", "Normal": "normal"}
    assert found == {
        f"{p}/{c}/images/x 1.png": (labels[c], parts[p], f"{p}/{c}/lung masks/x 1.png") for p in parts for c in labels
    }
    assert inventory.folders["lung masks"] == "masks"
    assert inventory.folders["Val"] == "part validation"
    assert inventory.folders["COVID-19"] == "class covid_19"
    assert inventory.masks == "lung masks of 9 of 9 images, by relative path"
    assert inventory.left == {"masks of something else": {".png": 3}}


def test_two_data_sets_in_one_folder_are_refused(write, tmp_path):
    for name in ("Lung Segmentation Data", "Infection Segmentation Data"):
        write(f"{name}/Train/Normal/images/1.png")
        write(f"{name}/Train/Normal/lung masks/1.png")
    with pytest.raises(DataError, match=r"must hold one data set, but 'Infection .*' is one in it.*Give that one"):
        index_source(f"folder:{tmp_path / 'data'}")


@pytest.mark.parametrize("name", ["masks", "Lung_Mask", "lungmasks", "segmentation", "Labels", "Manual Mask", "GT"])
def test_mask_folders_of_any_name_are_never_images(write, tmp_path, name):
    for label in ("a", "b"):
        write(f"{label}/images/1.png")
        write(f"{label}/{name}/1.png")
    found, _ = indexed(f"folder:{tmp_path / 'data'}")
    assert found == {f"{c}/images/1.png": (c, None, f"{c}/{name}/1.png") for c in "ab"}


def test_labels_without_images_beside_them_are_a_class(write, tmp_path):
    write("labels/1.png")
    write("normal/1.png")
    assert set(indexed(f"folder:{tmp_path / 'data'}")[0]) == {"labels/1.png", "normal/1.png"}


def test_masks_are_paired_by_relative_path(write, tmp_path):
    for label in ("a", "b"):
        for patient in ("pat1", "pat2"):
            write(f"{label}/images/{patient}/frontal.png")
            write(f"{label}/masks/{patient}/frontal.png")
    found, _ = indexed(f"folder:{tmp_path / 'data'},patient=none")
    assert {case: mask for case, (_, _, mask) in found.items()} == {
        f"{c}/images/{p}/frontal.png": f"{c}/masks/{p}/frontal.png" for c in "ab" for p in ("pat1", "pat2")
    }


def test_mask_that_fits_two_images_is_refused(write, tmp_path):
    write("a/images/p1/x.png")
    write("a/images/p2/x.png")
    write("a/masks/x.png")
    write("b/1.png")
    with pytest.raises(DataError, match=r"a/masks/x\.png fits a/images/p1/x\.png and a/images/p2/x\.png"):
        index_source(f"folder:{tmp_path / 'data'}")


def test_image_with_two_masks_is_refused(write, tmp_path):
    for name in ("images/1.png", "masks/1.png", "segmentations/1.png"):
        write(f"a/{name}")
        write(f"b/{name}")
    with pytest.raises(DataError, match=r"must have one mask, but a/images/1\.png has a/masks.* and a/segmentations"):
        index_source(f"folder:{tmp_path / 'data'}")


def test_masks_beside_their_images(write, tmp_path):
    for name in ("a/x.png", "a/x_mask.png", "a/y.png", "b/z.jpg", "b/z-seg.png", "b/my_seg.png", "a/lost_mask.png"):
        write(name)
    found, inventory = indexed(f"folder:{tmp_path / 'data'}")
    assert found == {
        "a/x.png": ("a", None, "a/x_mask.png"),
        "a/y.png": ("a", None, None),
        "b/z.jpg": ("b", None, "b/z-seg.png"),
        "b/my_seg.png": ("b", None, None),
    }
    assert inventory.left == {"masks without an image": {".png": 1}}
    assert inventory.masks == "masks of 2 of 4 images, by relative path; 1 masks have no image"


def test_masks_of_all_classes_in_one_folder(write, tmp_path):
    for name in ("a/1.png", "b/2.png", "masks/1.png", "masks/2_mask.png"):
        write(name)
    found, inventory = indexed(f"folder:{tmp_path / 'data'}")
    assert [mask for _, _, mask in found.values()] == ["masks/1.png", "masks/2_mask.png"]
    assert "2 by file name alone" in inventory.masks


@pytest.mark.parametrize("layout", ["{part}/{kind}/{i}.png", "{kind}/{part}/{i}.png"])
def test_parts_of_images_and_masks_without_classes(tmp_path, write, layout):
    for part, count in (("train", 40), ("val", 32), ("test", 10)):
        for i in range(count):
            write(layout.format(part=part, kind="images", i=i), hash((part, i)) % 10**6)
            mask = write(layout.format(part=part, kind="masks", i=i))
            Image.fromarray(np.eye(32, 40, dtype=np.uint8) * 255).save(mask)
    inspection = inspect(f"folder:{tmp_path / 'data'}")
    assert inspection.audit.problems == ()
    assert inspection.manifest.classes == ()
    assert [len(inspection.manifest.parts[part]) for part in ("train", "validation", "test")] == [40, 32, 10]
    assert load(inspection, [IMAGE, MASK], 16).train.has("mask").all()


def test_part_names_of_several_words_and_below_classes(write, tmp_path):
    for part in ("Training Set", "Test Set"):
        write(f"above/{part}/a/{part}.png")
        write(f"above/{part}/b/{part}.png")
        write(f"below/a/{part}/{part}.png")
        write(f"below/b/{part}/{part}.png")
    for layout in ("above", "below"):
        found, inventory = indexed(f"folder:{tmp_path / 'data' / layout}")
        parts = {"Training Set": "train", "Test Set": "test"}
        assert {(label, split) for label, split, _ in found.values()} == {
            (label, part) for label in "ab" for part in parts.values()
        }
        assert [guess.option for guess in inventory.guesses] == ["official=no"]
        assert "'Test Set' is test" in inventory.guesses[0].sentence
        assert set(index_source(f"folder:{tmp_path / 'data' / layout},official=no")["split"]) == {None}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"),
        ("TRAINING", "train"),
        ("Test Set", "test"),
        ("testset", "test"),
        ("val_images", "validation"),
        ("CXR-train", "train"),
        ("train_val", None),
        ("test 2", None),
        ("contest", None),
        ("covid", None),
    ],
)
def test_part_of_a_folder_name(name, part):
    assert _names.part(name) == part


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train 1/a/1.png", "train 2/a/1.png"], "must not be named like a part, but .*train 1 is"),
        (["a/train/1.png", "a/extra/2.png", "b/3.png"], "'train' lies beside 'extra'"),
        (["a/test/1.png", "a/2.png", "b/3.png"], r"'test' lies beside 2\.png"),
        (["train/1.png", "test/1.png"], "2 images lie in its part folders directly, and no masks"),
        (["images/1.png", "masks/1.png", "edema/1.png"], "Beside .*images there must be only masks, but 'edema'"),
        (["masks/1.png", "segmentation/1.png"], "it holds 2 masks alone"),
        ([f"patient{i}/{k}.png" for i in range(12) for k in "ab"], "its 12 folders seem to be patients: patient0"),
        (["TB/1.png", "tb/2.png"], "must have different names, but in .* these are one class: 'TB', 'tb'"),
    ],
)
def test_trees_that_are_not_understood(write, tmp_path, files, message):
    for file in files:
        write(file)
    with pytest.raises(DataError, match=message):
        index_source(f"folder:{tmp_path / 'data'}")


def test_only_folder_with_masks_is_no_class(write, tmp_path):
    for name in ("export/1.png", "export/1_mask.png", "export/2.png", "export/2_mask.png"):
        write(name)
    found, inventory = indexed(f"folder:{tmp_path / 'data'}")
    assert {label for label, _, _ in found.values()} == {None}
    assert "The only folder of images, 'export', is no class" in inventory.guesses[0].sentence


def test_images_beside_class_folders_are_named(write, tmp_path):
    for name in ("a/1.png", "b/1.png", "loose.png"):
        write(name)
    found, inventory = indexed(f"folder:{tmp_path / 'data'}")
    assert set(found) == {"a/1.png", "b/1.png"}
    assert inventory.left == {"beside the class folders": {".png": 1}}
    assert inventory.guesses[0].sentence == "1 images lie beside the class folders and are left out: loose.png."


# formats and left-overs


@pytest.mark.parametrize("suffix", ["bmp", "tif", "tiff", "webp", "jfif", "gif", "jpe", "jp2", "PNG"])
def test_formats_are_read(write, tmp_path, suffix):
    for i in range(40):
        path = tmp_path / f"data/{'ab'[i % 2]}/{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(write(f"../source/{i}.png", i)).save(path)
    inspection = inspect(f"folder:{tmp_path / 'data'}")
    assert inspection.audit.problems == ()
    assert inspection.audit.inventory["read"] == {f".{suffix.lower()}": 40}
    pixels = load(inspection, [IMAGE], 40).train["image"]
    assert pixels.max() > 100


def test_files_without_suffix_are_read_by_content(write, tmp_path):
    write("a/1.png").rename(tmp_path / "data/a/1")
    write("b/1.jpg").rename(tmp_path / "data/b/1.2.840.10008")
    (tmp_path / "data/b/README").write_text("BMI and other things")
    found, inventory = indexed(f"folder:{tmp_path / 'data'}")
    assert set(found) == {"a/1", "b/1.2.840.10008"}
    assert inventory.read == {"no suffix": 2}
    assert inventory.left == {"no images": {"no suffix": 1}}


def test_files_left_unread_are_counted_and_named(write, tmp_path, capsys):
    for i in range(60):
        write(f"{'ab'[i % 2]}/{i}.png", i)
    for name in ("a/1.heic", "a/2.heic", "notes.txt", "docs/manual.pdf"):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"?")
    inspection = inspect(f"folder:{tmp_path / 'data'}")
    assert inspection.manifest.classes == ("a", "b")
    assert "2 files that may hold images were left unread: .heic 2." in inspection.audit.warnings
    assert report.check(f"folder:{tmp_path / 'data'}") == 0
    shown = capsys.readouterr().out
    assert "read        60 files (.png 60)" in shown
    assert "left unread 4 files; no images: 4 (.heic 2, .txt 1, .pdf 1)" in shown
    assert "left out: docs" in shown
    assert "patients    unknown" in shown


def test_class_of_unreadable_formats_is_refused(write, tmp_path):
    write("a/1.png")
    write("b/1.png")
    (tmp_path / "data/c").mkdir()
    (tmp_path / "data/c/1.heic").write_bytes(b"?")
    with pytest.raises(DataError, match=r"data/c must hold images that can be read, but holds 1 files \(\.heic\)"):
        index_source(f"folder:{tmp_path / 'data'}")
    assert len(index_source(f"folder:{tmp_path / 'data'},ignore=c")) == 2


def test_left_overs_of_systems_are_counted(write, tmp_path):
    for name in ("a/1.png", "b/1.png", "a/@eaDir/1.png/SYNO.jpg", "b/thumbnails/1.png", "a/.DS_Store.png"):
        write(name)
    (tmp_path / "data/Thumbs.db").write_bytes(b"?")
    found, inventory = indexed(f"folder:{tmp_path / 'data'}")
    assert set(found) == {"a/1.png", "b/1.png"}
    assert inventory.left == {
        "of the operating system or an archive": {"@eaDir": 1, "thumbnails": 1, ".DS_Store.png": 1, "Thumbs.db": 1}
    }


def test_folder_that_cannot_be_listed_stops(write, tmp_path, monkeypatch):
    write("a/1.png")
    write("b/1.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"data/b must be readable, but: Permission denied"):
        index_source(f"folder:{tmp_path / 'data'}")


def test_names_that_are_not_utf8_are_named(write, tmp_path):
    write("a/1.png")
    bad = os.fsencode(tmp_path / "data/a") + b"/Thorax_\xe4.jpg"
    try:
        os.rename(write("a/2.jpg"), bad)
    except OSError:
        pytest.skip("the file system allows UTF-8 names only")
    with pytest.raises(DataError, match=r"must be UTF-8, but .*/a/Thorax_\\xe4\.jpg is not.*ignore=GLOB"):
        index_source(f"folder:{tmp_path / 'data'}")
    assert len(index_source(f"folder:{tmp_path / 'data'},ignore=Thorax*")) == 1


# options of every source


def test_ignore_leaves_files_and_folders_out(write, tmp_path):
    for name in ("a/1.png", "a/2_copy.png", "b/1.png", "docs/figure.png", "b/old/3.png"):
        write(name)
    source = f"folder:{tmp_path / 'data'},ignore=docs|*_copy.png|b/old"
    found, inventory = indexed(source)
    assert set(found) == {"a/1.png", "b/1.png"}
    assert inventory.left == {"ignored": {".png": 3}}
    with pytest.raises(DataError, match="ignore must match files or folders of the data, but 'dosc' matches none"):
        index_source(f"folder:{tmp_path / 'data'},ignore=dosc")
    with pytest.raises(DataError, match="ignore must be values joined with"):
        index_source(f"folder:{tmp_path / 'data'},ignore=a||b")


def test_ignore_leaves_rows_of_a_table_out(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\na.png,x\nold/b.png,y\nc.png,y\n")
    (tmp_path / "old").mkdir()
    for name in ("a.png", "old/b.png", "c.png"):
        (tmp_path / name).touch()
    assert list(index_source(f"table:{tmp_path / 't.csv'},ignore=old")["case_id"]) == ["a.png", "c.png"]
    with pytest.raises(DataError, match="ignore must leave images"):
        index_source(f"table:{tmp_path / 't.csv'},ignore=*.png")


def test_unreadable_images_and_masks_are_dropped_on_request(write, tmp_path, capsys):
    for i in range(80):
        write(f"{'ab'[i % 2]}/images/{i}.png", i)
        Image.fromarray(np.eye(32, 40, dtype=np.uint8)).save(write(f"{'ab'[i % 2]}/masks/{i}.png"))
    (tmp_path / "data/a/images/0.png").write_bytes(b"no")
    (tmp_path / "data/b/masks/1.png").write_bytes(b"no")
    source = f"folder:{tmp_path / 'data'}"
    image, mask = inspect(source).audit.problems
    assert "1 of 80 are not" in image
    assert "1 of 80 are not" in mask
    assert "',unreadable=drop'" in image
    inspection = inspect(f"{source},unreadable=drop")
    assert inspection.audit.problems == ()
    assert list(inspection.manifest.excluded) == ["a/images/0.png"]
    assert inspection.manifest.excluded["a/images/0.png"].startswith("unreadable: ")
    assert inspection.audit.masks == 79
    assert sum(len(part) for part in inspection.manifest.parts.values()) == 79
    inspection.save(tmp_path / "split.json")
    assert Manifest.load(tmp_path / "split.json").excluded == inspection.manifest.excluded
    assert report.check(f"{source},unreadable=drop") == 0
    shown = capsys.readouterr().out
    assert "Left out of all parts, 1 in number: a/images/0.png (unreadable: " in shown
    assert "1 masks can't be read and are left out" in shown


def test_inventory_is_kept_with_the_split(write, tmp_path):
    for i in range(60):
        write(f"{'ab'[i % 2]}/{i}.png", i)
    inspection = inspect(f"folder:{tmp_path / 'data'}")
    inspection.save(tmp_path / "split.json")
    _, audit = Manifest.read(tmp_path / "split.json")
    inventory = Inventory.from_dict(audit["inventory"])
    assert inventory.read == {".png": 60}
    assert inventory.folders == {"a": "class a", "b": "class b"}
    console = Console(record=True, file=io.StringIO(), width=200)
    old = type(inspection.audit).from_dict({k: v for k, v in audit.items() if k != "inventory"})
    report.show(old, "0" * 64, console)
    assert "Inventory" not in console.export_text()


# published layouts


def test_montgomery_and_shenzhen(write, tmp_path):
    halves = {"leftMask": (slice(None), slice(20, 40)), "rightMask": (slice(None), slice(0, 10))}
    for i in range(40):
        stem = f"MCUCXR_{i:04}_{i % 2}"
        write(f"MontgomerySet/CXR_png/{stem}.png", i)
        for side, where in halves.items():
            mask = np.zeros((32, 40), np.uint8)
            mask[where] = 255
            Image.fromarray(mask).save(write(f"MontgomerySet/ManualMask/{side}/{stem}.png"))
        reading = tmp_path / f"data/MontgomerySet/ClinicalReadings/{stem}.txt"
        reading.parent.mkdir(exist_ok=True)
        reading.write_text("Patient's Sex: F\nPatient's Age: 027Y\nnormal\n")
    write("ChinaSet_AllFiles/CXR_png/CHNCXR_0005_1.png", 99)
    write("ChinaSet_AllFiles/mask/CHNCXR_0005_1_mask.png", 98)
    cases = index_source(f"nlm:{tmp_path / 'data'}").set_index("case_id")
    assert cases.loc["MCUCXR_0001_1", "label"] == cases.loc["CHNCXR_0005_1", "label"] == "tuberculosis"
    assert cases.loc["MCUCXR_0000_0", "label"] == "normal"
    assert cases.loc["CHNCXR_0005_1", "mask_path"].endswith("mask/CHNCXR_0005_1_mask.png")
    assert cases["patient_id"].is_unique
    inspection = inspect(f"nlm:{tmp_path / 'data'},ignore=CHN*")
    assert inspection.audit.problems == ()
    assert "left and right united" in inspection.audit.inventory["masks"]
    mask = load(inspection, [MASK], 40).train["mask"][0, 0]
    assert mask[4:36, :10].min() == mask[4:36, 20:].min() == 255
    assert mask[:, 10:20].max() == 0


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("male 45yrs\nnormal", {"sex": "male", "age": 45}),
        ("Female, 6 months\nTB", {"sex": "female", "age": 0.5}),
        ("Patient's Sex: M\nPatient's Age: 031Y\nTB", {"sex": "male", "age": 31}),
        ("normal", {}),
    ],
)
def test_clinical_readings(text, reading):
    assert nlm.parsed(text) == reading


def test_jsrt_with_masks_of_scr(write, tmp_path):
    write("All247images/JPCLN001.png")
    write("All247images/JPCNN002.png")
    for organ in ("left lung", "right lung", "heart", "left clavicle"):
        write(f"scratch/fold1/masks/{organ}/JPCLN001.gif")
    found, inventory = indexed(f"jsrt:{tmp_path / 'data'}")
    masks = "scratch/fold1/masks/{} lung/JPCLN001.gif"
    assert found == {
        "JPCLN001": ("nodule", None, f"{masks.format('left')} + {masks.format('right')}"),
        "JPCNN002": ("no_nodule", None, None),
    }
    assert inventory.left == {"masks of something else": {".gif": 2}}


@pytest.mark.parametrize("source", ["nlm", "jsrt"])
def test_sources_by_name_say_what_they_need(write, tmp_path, source):
    write("a/1.png")
    with pytest.raises(DataError, match=f"{source} needs images named .* but there are none in"):
        index_source(f"{source}:{tmp_path / 'data'}")
