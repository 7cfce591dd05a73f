"""Public collections in their archives' layouts, including known traps."""

from __future__ import annotations

import csv
import json

import numpy as np
import openpyxl
import pytest
from PIL import Image

from lungtune.core.fields import MASK
from lungtune.data.dataset import inspect, load
from lungtune.data.sources import absolute, index_source, medmnist
from lungtune.errors import DataError


def labels(spec: str) -> dict[str, str]:
    cases = index_source(spec)
    return dict(zip(cases["case_id"], cases["label"], strict=True))


# cxr4


def test_cxr4(write, tmp_path):
    above = "archive/Chest X-Ray"
    write(f"{above}/train/COVID19/COVID19(1).jpg")
    write(f"{above}/train/NORMAL/IM-0115-0001.jpeg")
    write(f"{above}/val/PNEUMONIA/person12_bacteria_46.jpeg")
    write(f"{above}/test/TURBERCULOSIS/Tuberculosis-651.png")
    write(f"{above}/test/PNEUMONIA/person12_virus_47.jpeg")
    write("archive/__MACOSX/train/NORMAL/._IM-0115-0001.jpeg")
    (tmp_path / "data" / above / "train/NORMAL/._IM-0115-0001.jpeg").write_bytes(b"\0\5\26\7")
    cases = index_source(f"cxr4:{tmp_path / 'data'}").set_index("case_id")
    assert cases["label"].to_dict() == {
        "test/pneumonia/person12_virus_47.jpeg": "pneumonia",
        "test/tuberculosis/Tuberculosis-651.png": "tuberculosis",
        "train/covid19/COVID19(1).jpg": "covid19",
        "train/normal/IM-0115-0001.jpeg": "normal",
        "validation/pneumonia/person12_bacteria_46.jpeg": "pneumonia",
    }
    assert list(cases["patient_id"]) == ["test/person12", None, None, "train/im-0115", "train/person12"]
    assert cases.attrs["classes"] == ["normal", "covid19", "pneumonia", "tuberculosis"]
    assert cases.attrs["restarts"]


def test_cxr4_takes_either_spelling(write, tmp_path):
    write("train/tuberculosis/1.png")
    write("train/Normal/2.png")
    assert set(labels(f"cxr4:{tmp_path / 'data'}").values()) == {"tuberculosis", "normal"}


def test_cxr4_mistakes(write, tmp_path):
    write("somewhere/1.png")
    with pytest.raises(DataError, match="cxr4 needs a folder with train, val and test"):
        index_source(f"cxr4:{tmp_path / 'data'}")
    write("train/NORMAL/1.png")
    write("train/ASTHMA/1.png")
    with pytest.raises(DataError, match="ASTHMA must be one of the class folders covid"):
        index_source(f"cxr4:{tmp_path / 'data'}")


def test_cxr4_alarm_when_file_type_predicts_class(write, tmp_path):
    suffixes = {"COVID19": "jpg", "NORMAL": "jpeg", "PNEUMONIA": "jpeg", "TURBERCULOSIS": "png"}
    for part, each in (("train", 30), ("test", 2)):
        for number, (group, suffix) in enumerate(suffixes.items()):
            for i in range(each):
                path = write(f"{part}/{group}/x{i}.{suffix}", 1000 * number + i + 500 * (part == "test"))
                if group == "COVID19":
                    Image.open(path).convert("RGB").save(path)
    checked = inspect(f"cxr4:{tmp_path / 'data'}").audit
    alarms = {shortcut.feature for shortcut in checked.shortcuts if shortcut.alarm}
    assert alarms == {"file type", "mode"}
    assert any("Shortcut: file type alone predicts the class" in warning for warning in checked.warnings)


# covid_radiography


def workbook(path, rows, header=("FILE NAME", "FORMAT", "SIZE", "URL")):
    book = openpyxl.Workbook()
    for row in (header, *rows):
        book.active.append(row)
    book.save(path)


RSNA = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data"
KERMANY = "https://www.kaggle.com/paultimothymooney/chest-xray-pneumonia"


@pytest.fixture
def radiography(write, tmp_path):
    """40 images a class, 299 px, masks of 256 px and three channels; every class from an archive of its own."""
    root = tmp_path / "data/COVID-19_Radiography_Dataset"
    urls = {"COVID": "https://sirm.org/category/senza-categoria/covid-19/", "Normal": RSNA, "Viral Pneumonia": KERMANY}
    for number, (group, url) in enumerate(urls.items()):
        for i in range(1, 41):
            name = f"{root}/{group}/{{}}/{group}-{i}.png"
            path = write(name.format("images"), 1000 * number + i, width=299, height=299)
            if group == "Viral Pneumonia":
                Image.open(path).convert("RGB").save(path)
            mask = np.zeros((256, 256, 3), np.uint8)
            mask[64:192, 32:224, i % 3] = 255
            write(name.format("masks"))
            Image.fromarray(mask).save(name.format("masks"))
        named = group.upper() if group == "Normal" else group
        rows = [(f"{named}-{i}", "PNG", "256*256", url) for i in range(1, 41)]
        workbook(root / f"{group}.metadata.xlsx", rows)
    (root / "README.md.txt").write_text("read me")
    return tmp_path / "data"


def test_covid_radiography(radiography):
    cases = index_source(f"covid_radiography:{radiography}")
    assert len(cases) == 120, "masks are no images"
    assert set(cases["label"]) == {"covid", "normal", "viral_pneumonia"}
    assert cases["patient_id"].isna().all()
    first = cases.set_index("case_id").loc["normal/Normal-7.png"]
    assert first["mask_path"] == first["path"].replace("/images/", "/masks/")
    assert first["source"] == "covid_radiography:kaggle.com/c/rsna-pneumonia-detection-challenge"
    assert set(cases["source"].str.partition(":")[2]) == {
        "kaggle.com/c/rsna-pneumonia-detection-challenge",
        "kaggle.com/paultimothymooney/chest-xray-pneumonia",
        "sirm.org/category/senza-categoria",
    }


def test_covid_radiography_masks_fit_and_archive_alarms(radiography):
    inspection = inspect(f"covid_radiography:{radiography}")
    assert inspection.audit.problems == ()
    assert inspection.audit.masks == 120
    assert {s.feature for s in inspection.audit.shortcuts if s.alarm} == {"mode", "origin"}
    data = load(inspection, [MASK], 299)
    expected = np.zeros((299, 299), bool)
    expected[75:224, 37:262] = True
    assert np.array_equal(data.train["mask"][0, 0] > 0, expected)
    assert set(np.unique(data.validation["mask"])) == {0, 255}


def test_covid_radiography_of_older_releases(write, tmp_path):
    write("COVID/COVID (1).png")
    write("NORMAL/NORMAL (1).png")
    write("Viral Pneumonia/Viral Pneumonia (1).png")
    result = labels(f"covid_radiography:{tmp_path / 'data'}")
    assert sorted(result.values()) == ["covid", "normal", "viral_pneumonia"]


def test_covid_radiography_mistakes(write, tmp_path):
    root = tmp_path / "data"
    write("COVID/images/COVID-1.png")
    with pytest.raises(DataError, match="needs a folder with COVID, Lung_Opacity, Normal and 'Viral Pneumonia'"):
        index_source(f"covid_radiography:{root}")
    write("Normal/images/Normal-1.png")
    (root / "COVID.metadata.xlsx").write_bytes(b"PK no")
    with pytest.raises(DataError, match=r"COVID\.metadata\.xlsx must be an Excel workbook"):
        index_source(f"covid_radiography:{root}")
    workbook(root / "COVID.metadata.xlsx", [], ("NAME", "FROM"))
    with pytest.raises(DataError, match=r"must have the columns FILE NAME and URL, but has \['NAME', 'FROM'\]"):
        index_source(f"covid_radiography:{root}")


# rsna


@pytest.fixture
def rsna(tmp_path):
    root = tmp_path / "data/rsna"
    (root / "stage_2_train_images").mkdir(parents=True)
    classes = {"aa": "Normal", "bb": "No Lung Opacity / Not Normal", "cc": "Lung Opacity"}
    for name in (*classes, "unlabelled"):
        (root / f"stage_2_train_images/{name}.dcm").write_bytes(b"not opened")
    boxes = [("aa", "", "0"), ("bb", "", "0"), ("cc", "5.0", "1"), ("cc", "9.0", "1")]
    with (root / "stage_2_train_labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("patientId", "x", "Target"), *boxes])
    with (root / "stage_2_detailed_class_info.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("patientId", "class"), *((name, classes[name]) for name, _, _ in boxes)])
    return root


def test_rsna(rsna):
    assert labels(f"rsna:{rsna.parent}") == {"aa": "normal", "bb": "not_normal", "cc": "lung_opacity"}
    assert labels(f"rsna:{rsna},labels=target") == {"aa": "no_opacity", "bb": "no_opacity", "cc": "lung_opacity"}
    cases = index_source(f"rsna:{rsna}")
    assert cases["patient_id"].isna().all(), "a patientId names an image"
    assert cases.attrs["classes"] == ["normal", "lung_opacity", "not_normal"]


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_rsna_takes_patients_from_nih(rsna, suffix):
    pairs = {"aa": "00000013_005.png", "bb": "00000013_006.png", "zz": "00000001_000.png"}
    file = rsna / f"nih.{suffix}"
    if suffix == "json":
        file.write_text(
            json.dumps([{"subset_img_id": k, "img_id": v, "SOPInstanceUID": "1.2"} for k, v in pairs.items()])
        )
    else:
        file.write_text("img_id,subset_img_id\n" + "".join(f"{v},{k}\n" for k, v in pairs.items()))
    cases = index_source(f"rsna:{rsna},nih={file}")
    assert list(cases["patient_id"]) == ["nih/00000013", "nih/00000013", None]


def test_rsna_mistakes(rsna, tmp_path):
    with pytest.raises(DataError, match="labels must be one of detailed, target, but got 'boxes'"):
        index_source(f"rsna:{rsna},labels=boxes")
    with pytest.raises(DataError, match="rsna needs a folder with stage_2_train_images"):
        index_source(f"rsna:{rsna / 'stage_2_train_images'}")
    for text, why in (("[1]", "must be a JSON list"), ("{", "must be a JSON list"), ("[]", None)):
        (rsna / "nih.json").write_text(text)
        if why:
            with pytest.raises(DataError, match=why):
                index_source(f"rsna:{rsna},nih={rsna / 'nih.json'}")
    (rsna / "nih.json").write_text('[{"subset_img_id": "other", "img_id": "1_0.png"}]')
    with pytest.raises(DataError, match="but it names none, such as aa"):
        index_source(f"rsna:{rsna},nih={rsna / 'nih.json'}")
    (rsna / "stage_2_train_images/aa.dcm").unlink()
    with pytest.raises(DataError, match=r"but 1 of 3 do not: aa\.dcm"):
        index_source(f"rsna:{rsna}")
    table = rsna / "stage_2_detailed_class_info.csv"
    table.write_text("patientId,class\nbb,Normal\nbb,Lung Opacity\n")
    with pytest.raises(DataError, match=r"info\.csv:3: bb must have one class, but has normal and lung_opacity"):
        index_source(f"rsna:{rsna}")
    table.write_text("patientId,class\nbb,Fine\n")
    with pytest.raises(DataError, match=r"info\.csv:2: class must be one of .* but got 'Fine'"):
        index_source(f"rsna:{rsna}")
    table.write_text("id,class\nbb,Normal\n")
    with pytest.raises(DataError, match="must have a column 'patientId'"):
        index_source(f"rsna:{rsna}")


# medmnist


def npz(path, shape=(28, 28), classes=2, **changes):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 20), ("val", 6), ("test", 8)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(n) % classes)[:, None].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{**arrays, **changes})
    return arrays


def test_medmnist_file(tmp_path, cache):
    arrays = npz(tmp_path / "pneumoniamnist_224.npz")
    cases = index_source(f"medmnist:{tmp_path / 'pneumoniamnist_224.npz'}")
    assert cases["split"].value_counts().to_dict() == {"train": 20, "validation": 6, "test": 8}
    assert cases.attrs["classes"] == ["normal", "pneumonia"]
    one = cases.set_index("case_id").loc["test/pneumonia/000003.png"]
    assert np.array_equal(np.asarray(Image.open(one["path"])), arrays["test_images"][3])
    assert [p.name for p in (cache / "medmnist").iterdir() if p.is_dir()] == [
        p.split("/")[-4] for p in cases["path"][:1]
    ]


def test_medmnist_writes_once_and_repairs(tmp_path, monkeypatch):
    npz(tmp_path / "pneumoniamnist.npz")
    spec = f"medmnist:pneumoniamnist,root={tmp_path}"
    first = index_source(spec)
    with monkeypatch.context() as patch:
        patch.setattr(medmnist, "_arrays", None)
        assert index_source(spec).equals(first)
        assert index_source(f"medmnist:{tmp_path / 'pneumoniamnist.npz'}").equals(first)
    path = first["path"][0]
    open(path, "w").close()
    index_source(spec)
    with Image.open(path) as image:
        assert image.size == (28, 28)


def test_medmnist_colour_becomes_gray(tmp_path):
    npz(tmp_path / "bloodmnist.npz", (28, 28, 3), classes=8)
    cases = index_source(f"medmnist:{tmp_path / 'bloodmnist.npz'}")
    with Image.open(cases["path"][0]) as image:
        assert image.mode == "L"
    assert "immature_granulocytes_myelocytes_metamyelocytes_and_promyelocytes" in cases.attrs["classes"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nodulemnist3d", "must be 2-D with one label an image, but nodulemnist3d is 3-D"),
        ("chestmnist_64", "but chestmnist has several labels an image"),
        ("pneumonimnist", "'pneumonimnist' is none. Did you mean 'pneumoniamnist'"),
        ("pneumoniamnist_96", "with 28, 64, 128 and 224 pixels, but not 'pneumoniamnist_96'"),
        ("/x/weights.npz", "must have the name of a set, but 'weights' is none"),
        ("/x/pneumoniamnist.npz", "/x/pneumoniamnist.npz does not exist"),
        ("pneumoniamnist,root=/x", "The folder /x does not exist"),
        ("", "needs a set: write medmnist:pneumoniamnist_224"),
    ],
)
def test_medmnist_mistakes(name, message):
    with pytest.raises(DataError, match=message):
        index_source(f"medmnist:{name}")


def test_medmnist_damaged_files_leave_nothing_behind(tmp_path, cache):
    file = tmp_path / "pneumoniamnist.npz"
    file.write_bytes(b"PK no")
    with pytest.raises(DataError, match=r"pneumoniamnist\.npz must be a MedMNIST file, but it is not"):
        index_source(f"medmnist:{file}")
    npz(file, test_labels=np.full((8, 1), 2))
    with pytest.raises(DataError, match="with one of 2 labels each, but its part 'test' has pictures"):
        index_source(f"medmnist:{file}")
    assert not [p for p in (cache / "medmnist").iterdir() if p.is_dir()]


def test_medmnist_downloads_once_and_reports_the_path(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    def offline(stem, folder):
        raise RuntimeError("no network")

    monkeypatch.setattr(medmnist, "_fetch", offline)
    where = cache / "medmnist/pneumoniamnist_64.npz"
    with pytest.raises(DataError, match=rf"could not be fetched from https://zenodo.* put it at {where}, or write"):
        index_source("medmnist:pneumoniamnist_64")
    assert not list((cache / "medmnist").iterdir())
    calls = []
    monkeypatch.setattr(medmnist, "_fetch", lambda stem, folder: calls.append(npz(folder / f"{stem}.npz")))
    for _ in range(2):
        assert len(index_source("medmnist:pneumoniamnist_64")) == 34
    assert len(calls) == 1
    assert where.is_file()


def test_medmnist_writes_nothing_to_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    npz(tmp_path / "pneumoniamnist.npz")
    index_source(f"medmnist:{tmp_path / 'pneumoniamnist.npz'}")
    assert not (tmp_path / "home").exists()


def test_medmnist_names_stay_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("medmnist:pneumoniamnist,root=here") == f"medmnist:pneumoniamnist,root={tmp_path / 'here'}"
    assert absolute("medmnist:a/pneumoniamnist.npz") == f"medmnist:{tmp_path / 'a/pneumoniamnist.npz'}"
