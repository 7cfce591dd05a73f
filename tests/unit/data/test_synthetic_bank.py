"""Bank of synthetic images: resumable, atomic, verified, refused for other training images."""

import dataclasses
import hashlib
import json
import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image

from lungtune.core.fields import IMAGE, LABEL, MASK, TEXT
from lungtune.data import dataset
from lungtune.data.manifest import Entries, Manifest
from lungtune.data.synthetic_bank import Item, SyntheticBank
from lungtune.errors import DataError

CLASSES = ("normal", "viral")
SIZE = 8


def manifest(train="ab", rest="cd", **changes):
    def part(names):
        rows = [(f"case-{name}", CLASSES[k % 2], f"patient-{name}", f"sha-{name}") for k, name in enumerate(names)]
        return Entries(*zip(*rows), path=tuple(f"/data/{name}" for name in names)) if rows else Entries(*[()] * 5)

    parts = {"train": part(train), "validation": part(rest), "test": part("")}
    built = Manifest(CLASSES, parts, {}, seed=0, folds=5, fold=0, source="folder:/data", notes=())
    return dataclasses.replace(built, **changes)


def create(folder, **changes):
    about = {"key": "ab" * 16, "generator": {"recipe": "sd-1.yaml", "fingerprint": "f00"}, "classes": CLASSES}
    about |= {"train_hash": manifest().train_hash, "size": SIZE, "seed": 7, "about": {"prompt": "plain"}}
    return SyntheticBank.create(folder, **{**about, **changes})


def item(label, index):
    seed = 100 * CLASSES.index(label) + index
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    return Item(label, index, f"a {label} chest", seed, pixels)


def filled(folder, per_class=3):
    bank = create(folder)
    bank.add([item(label, index) for label, index in bank.missing(per_class)])
    return bank


def test_added_images_are_read_back(tmp_path):
    filled(tmp_path / "bank")
    bank = SyntheticBank.open(tmp_path / "bank")
    assert bank.counts() == {"normal": 3, "viral": 3}
    assert (bank.seed, bank.size, bank.classes, bank.about) == (7, SIZE, CLASSES, {"prompt": "plain"})
    for index, entry in enumerate(bank.entries("viral")):
        assert (entry.index, entry.file, entry.caption) == (index, f"images/1/{index}.png", "a viral chest")
        with Image.open(bank.folder / entry.file) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), item("viral", index).pixels)
        data = (bank.folder / entry.file).read_bytes()
        assert (entry.sha256, entry.sha1) == (hashlib.sha256(data).hexdigest(), hashlib.sha1(data).hexdigest())
    bank.verify()


def test_writing_resumes_and_a_larger_bank_holds_the_smaller(tmp_path):
    whole, bank = filled(tmp_path / "whole", 4), create(tmp_path / "bank")
    assert bank.missing(2) == [("normal", 0), ("normal", 1), ("viral", 0), ("viral", 1)]
    bank.add([item("viral", 1), item("normal", 0)])
    again = create(tmp_path / "bank")
    assert again.missing(2) == [("normal", 1), ("viral", 0)]
    assert again.counts() == {"normal": 1, "viral": 0}  # up to the first gap
    again.add([item(*each) for each in again.missing(2)])
    small = again.hash
    again.add([item(*each) for each in again.missing({"normal": 4, "viral": 3})])
    assert again.missing(4) == [("viral", 3)]
    assert again.first({"normal": 2, "viral": 2}).hash == small
    again.add([item("viral", 3), item("viral", 0)])  # one that is there already stays as it is
    assert len((tmp_path / "bank" / "images.jsonl").read_text().splitlines()) == 8
    assert again.hash == whole.hash == SyntheticBank.open(tmp_path / "bank").hash
    assert again.hash != small


@pytest.mark.parametrize("torn", [b'{"file": "images/0/2.png", "cla', b"\xff\x00", b"{}"])
def test_torn_last_line_is_ignored_and_replaced(tmp_path, torn):
    bank = filled(tmp_path / "bank", 2)
    with (bank.folder / "images.jsonl").open("ab") as stream:
        stream.write(torn)
    bank = SyntheticBank.open(bank.folder)
    assert bank.counts() == {"normal": 2, "viral": 2}
    bank.add([item("normal", 2)])
    assert SyntheticBank.open(bank.folder).counts() == {"normal": 3, "viral": 2}
    assert torn not in (bank.folder / "images.jsonl").read_bytes().splitlines()


def test_a_damaged_line_before_the_last_is_reported(tmp_path):
    bank = filled(tmp_path / "bank", 1)
    file = bank.folder / "images.jsonl"
    file.write_bytes(b'{"class": "normal"}\n' + file.read_bytes())
    with pytest.raises(
        DataError, match=r"images\.jsonl:1: every line must describe a synthetic image.*delete the line"
    ):
        SyntheticBank.open(bank.folder).counts()


@pytest.mark.parametrize("when", ["image", "list"])
def test_full_disk_is_one_sentence_and_adds_nothing(tmp_path, monkeypatch, when):
    bank = filled(tmp_path / "bank", 1)
    before = sorted(path for path in bank.folder.rglob("*") if path.is_file())
    lines = (bank.folder / "images.jsonl").read_bytes()
    true, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > (1 if when == "image" else 4):  # two images, two folders, then the list
            raise OSError(28, "No space left on device")
        true(handle)

    monkeypatch.setattr(os, "fsync", full)
    message = (
        r"the bank .*bank must take 0\.0 MB for 2 images, but: No space left on device \([\d,.]+ MB are free there\)"
    )
    with pytest.raises(DataError, match=message):
        bank.add([item("normal", 1), item("viral", 1)])
    monkeypatch.undo()
    assert sorted(path for path in bank.folder.rglob("*") if path.is_file()) == before
    assert (bank.folder / "images.jsonl").read_bytes() == lines
    bank.add([item("normal", 1), item("viral", 1)])
    assert bank.hash == filled(tmp_path / "other", 2).hash


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_altered_image_is_reported_and_regenerated(tmp_path, damage):
    bank = filled(tmp_path / "bank")
    sound, file = bank.hash, bank.folder / "images" / "1" / "1.png"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.unlink() if damage == "delete" else file.write_bytes(bytes(data))
    what = "it is gone" if damage == "delete" else "its content has changed"
    message = rf"images/1/1\.png must be the generated one, but {what}; .* regenerate it with '.*sd-1\.yaml --out .*'"
    with pytest.raises(DataError, match=message):
        bank.verify()
    bank.first({"normal": 3, "viral": 1}).verify()
    assert [(entry.label, entry.index) for entry in bank.drop_damaged()] == [("viral", 1)]
    assert bank.counts() == {"normal": 3, "viral": 1}
    assert bank.missing(3) == [("viral", 1)]
    bank.add([item("viral", 1)])
    bank.verify()
    assert bank.hash == sound
    assert bank.drop_damaged() == []


def test_a_folder_that_is_no_bank_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere must be a bank of synthetic images, but does not exist; make one"):
        SyntheticBank.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"must be a bank of synthetic images, but has no bank\.json"):
        SyntheticBank.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="must be empty to hold a bank of synthetic images, but holds other files"):
        create(tmp_path)
    bank = filled(tmp_path / "bank")
    assert create(bank.folder).hash == bank.hash
    with pytest.raises(DataError, match=r"holds a bank of other synthetic images \(abababababab, not cdcdcdcdcdcd\)"):
        create(bank.folder, key="cd" * 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], r"must describe a bank of synthetic images, but is damaged \(JSONDecode"),
        (lambda text: "[]", "but is damaged"),
        (lambda text: json.dumps({**json.loads(text), "schema": 2}), "must be of schema 1, but is of schema 2; update"),
        (lambda text: json.dumps({**json.loads(text), "classes": []}), "classes, size can't be read"),
        (lambda text: json.dumps({**json.loads(text), "size": "big"}), r"damaged \(ValueError: size can't be read\)"),
        (lambda text: text.replace("train_hash", "other"), r"damaged \(KeyError: 'train_hash'\)"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, change, message):
    file = filled(tmp_path / "bank").folder / "bank.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=message):
        SyntheticBank.open(file.parent)


def test_wrong_pixels_and_classes_raise_valueerror(tmp_path):
    bank = create(tmp_path / "bank")
    with pytest.raises(ValueError, match="an image must be of normal, viral, from 0 up"):
        bank.add([Item("covid", 0, "", 0, np.zeros((SIZE, SIZE), np.uint8))])
    with pytest.raises(ValueError, match=r"pixels must be uint8 \(8, 8\), but got float32 \(8, 8\)"):
        bank.add([Item("viral", 0, "", 0, np.zeros((SIZE, SIZE), np.float32))])


def _write(folder, label):
    bank = SyntheticBank.open(folder)
    for index in range(6):
        bank.add([item(label, index)])


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    bank = create(tmp_path / "bank")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(bank.folder, label)) for label in (*CLASSES, "viral")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert bank.hash == filled(tmp_path / "other", 6).hash


def test_a_bank_of_another_fold_is_refused(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.check_training_fold(manifest(rest="xyz", seed=4))  # only who is trained on counts
    other = manifest(train="ac", rest="bd")
    message = rf"is from another training fold \({bank.train_hash[:12]}\) than this study's \({other.train_hash[:12]}"
    with pytest.raises(DataError, match=message + r"\), so its images may show validation or test patients; make one"):
        bank.check_training_fold(other)
    swapped = manifest(classes=("viral", "normal"))
    with pytest.raises(DataError, match=r"must be of the data's classes \(viral, normal\), but is of normal, viral"):
        bank.check_training_fold(swapped)


@pytest.mark.parametrize("column", ["case_id", "label", "group", "sha1"])
def test_train_hash_covers_every_column(column):
    one = manifest()
    train = one.parts["train"]
    order = {name: getattr(train, name)[::-1] for name in ("case_id", "label", "group", "sha1", "path")}
    turned = dataclasses.replace(train, **order, mask=(), mask_sha1=())
    assert dataclasses.replace(one, parts={**one.parts, "train": turned}).train_hash == one.train_hash
    changed = dataclasses.replace(train, **{column: (*getattr(train, column)[:-1], "normal")})
    assert dataclasses.replace(one, parts={**one.parts, "train": changed}).train_hash != one.train_hash


def test_too_few_images_are_reported_with_counts(tmp_path):
    bank = filled(tmp_path / "bank")
    bank.check_counts({"normal": 3, "viral": 0}, "synthetic_ratio 1")
    message = (
        r"holds too few .*: synthetic_ratio 2 needs 5 of viral \(it has 3\); make more with: .* --out .* --per-class 5"
    )
    with pytest.raises(DataError, match=message):
        bank.check_counts({"normal": 3, "viral": 5}, "synthetic_ratio 2")


def test_needed_images_are_taken_after_a_check(tmp_path):
    bank = filled(tmp_path / "bank")
    assert bank.take(manifest(), {"normal": 1, "viral": 3}, "synthetic_ratio 1").counts() == {"normal": 1, "viral": 3}
    with pytest.raises(DataError, match=r"synthetic_ratio 2 needs 4 of viral \(it has 3\)"):
        bank.take(manifest(), {"normal": 1, "viral": 4}, "synthetic_ratio 2")
    with pytest.raises(DataError, match="is from another training fold"):
        bank.take(manifest(train="ac", rest="bd"), {"normal": 1}, "synthetic_ratio 1")
    (bank.folder / bank.entries("viral")[2].file).unlink()
    bank.take(manifest(), {"normal": 1, "viral": 2}, "synthetic_ratio 1")
    with pytest.raises(DataError, match=r"images/1/2\.png must be the generated one, but it is gone"):
        bank.take(manifest(), {"viral": 3}, "synthetic_ratio 1")


def test_study_reopens_its_images_in_a_grown_bank_only(tmp_path):
    bank = filled(tmp_path / "bank")
    about = json.loads(json.dumps(bank.first({"normal": 2, "viral": 3}).to_dict()))
    assert about["counts"] == {"normal": 2, "viral": 3}
    bank.add([item(*each) for each in bank.missing(9)])
    assert SyntheticBank.reopen(about).hash == about["hash"]
    moved = bank.folder.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"images abababababab must be at .*bank, but is not there; .*--bank DIR"):
        SyntheticBank.reopen(about)
    assert SyntheticBank.reopen(about, moved).counts() == about["counts"]
    other = create(tmp_path / "other", key="cd" * 16)
    with pytest.raises(DataError, match="must be the bank of synthetic images abababababab, but is cdcdcdcdcdcd"):
        SyntheticBank.reopen(about, other.folder)
    (moved / "images" / "0" / "0.png").unlink()
    SyntheticBank.open(moved).drop_damaged()
    with pytest.raises(DataError, match=r"what was trained on needs 2 of normal \(it has 0\)"):
        SyntheticBank.reopen(about, moved)
    SyntheticBank.open(moved).add([dataclasses.replace(item("normal", 0), pixels=np.zeros((SIZE, SIZE), np.uint8))])
    with pytest.raises(DataError, match=r"must be those that were trained on .* but some were regenerated since"):
        SyntheticBank.reopen(about, moved)


def test_dataset_opens_synthetic_images_with_its_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    inspection = dataset.inspect("phantom,n=84,test=36,size=32", seed=3)
    classes, train_hash = inspection.manifest.classes, inspection.manifest.train_hash
    bank = create(tmp_path / "bank", classes=classes, train_hash=train_hash)
    bank.add([dataclasses.replace(item("viral", k), label=label) for label in classes for k in range(3)])
    wanted = [IMAGE, LABEL, MASK, TEXT]
    without = dataset.load(inspection, wanted, 16)
    data = dataset.load(inspection, wanted, 16, bank=bank.first(dict.fromkeys(classes[1:], 2)))
    assert without.synthetic is None
    assert data.synthetic["image"].shape == (2 * (len(classes) - 1), 1, 16, 16)
    assert data.synthetic["label"].tolist() == np.repeat(np.arange(1, len(classes)), 2).tolist()
    assert data.synthetic.case_ids[1] == f"synthetic/{classes[1]}/1"
    assert data.synthetic["mask"].shape == data.synthetic["image"].shape
    assert data.synthetic["mask"].max() == 0
    assert not data.synthetic.has("mask").any()
    assert set(data.synthetic["text"]) == {"a viral chest"}
    assert data.synthetic.has("text").all()
    assert isinstance(data.synthetic["image"], np.memmap)
    for name in ("train", "validation"):
        assert np.array_equal(getattr(data, name).case_ids, getattr(without, name).case_ids)
        assert getattr(data, name)["image"].filename == getattr(without, name)["image"].filename
    with pytest.raises(DataError, match="is from another training fold"):
        dataset.load(dataset.inspect("phantom,n=84,test=36,size=32", seed=4), wanted, 16, bank=bank)
    assert bank.entries(classes[0])[0].flaw(bank.folder) == ""
