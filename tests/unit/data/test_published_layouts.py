"""Published layouts as users store them: other spellings, formats and places end in the right reading or a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungtune.core.fields import UNCERTAIN
from lungtune.data.dataset import inspect
from lungtune.data.sources import index_source
from lungtune.data.sources._labelled import CHEXPERT
from lungtune.data.sources._published import identifier
from lungtune.errors import DataError

NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
TABLE = "Data_Entry_2017.csv"


def film(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (24, 24), np.uint8)
    Image.fromarray(values).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")


def nih(root: Path, rows: str = "", *, suffix: str = ".png", table: str = TABLE, encoding: str = "utf-8") -> Path:
    """Write six films of six patients; the last two are the official test part."""
    labels = ("Hernia", "No Finding", "Mass|Nodule") * 2
    names = [f"{k:08d}_000" for k in range(6)]
    listed = rows or "".join(f"{name}.png,{labels[k]},0,{k},50,M,PA\n" for k, name in enumerate(names))
    (root / table).parent.mkdir(parents=True, exist_ok=True)
    (root / table).write_bytes((NIH + listed).encode(encoding))
    for k, name in enumerate(names):
        film(root / f"images_001/images/{name}{suffix}", k)
    lists(root, names)
    return root


def lists(root: Path, names: list[str], train: str = "train_val_list.txt", form: str = "{}.png", **how: str) -> None:
    (root / train).write_text("\n".join(form.format(name) for name in names[:4]), **how)
    (root / "test_list.txt").write_text("\n".join([*(f"{name}.png" for name in names[4:]), "99999999_000.png"]))


def parts(source: str) -> list[str | None]:
    return list(index_source(source)["split"])


EXPECTED = ["train"] * 4 + ["test"] * 2


@pytest.mark.parametrize(
    "how",
    [
        {"suffix": ".PNG"},
        {"suffix": ".jpg"},
        {"table": "DATA_ENTRY_2017.CSV"},
        {"table": f"{TABLE}/{TABLE}"},
        {"encoding": "utf-16"},
        {"encoding": "utf-8-sig"},
    ],
    ids=str,
)
def test_nih_is_read_in_other_forms(tmp_path, how):
    cases = index_source(f"nih:{nih(tmp_path / 'deep/data', **how).parent}")
    assert list(cases["split"]) == EXPECTED
    assert [sum(labels) for labels in cases["labels"]] == [1, 0, 2, 1, 0, 2]


@pytest.mark.parametrize(
    "how",
    [
        {"form": "images_001/images/{}.png"},
        {"form": "{}"},
        {"form": "{}.PNG"},
        {"encoding": "utf-16"},
    ],
    ids=str,
)
def test_official_lists_are_read_in_other_forms(tmp_path, how):
    root = nih(tmp_path)
    lists(root, [f"{k:08d}_000" for k in range(6)], **how)
    assert parts(f"nih:{root}") == EXPECTED


def test_official_list_of_another_case_is_found(tmp_path):
    root = nih(tmp_path)
    (root / "train_val_list.txt").rename(root / "Train_Val_List.txt")
    assert parts(f"nih:{root}") == EXPECTED


def test_official_list_of_other_images_is_refused(tmp_path):
    root = nih(tmp_path)
    (root / "train_val_list.txt").write_text("a.png\nb.png\n")
    with pytest.raises(DataError, match=r"train_val_list.txt must list images of .* none of 2 is in it: a.png"):
        index_source(f"nih:{root}")


def test_images_in_neither_list_are_told(tmp_path):
    root = nih(tmp_path)
    lists(root, [f"{k:08d}_000" for k in (0, 1, 2, 2, 4, 5)])
    guesses = index_source(f"nih:{root}").attrs["inventory"].guesses
    assert "1 of 6 images are in neither official list" in guesses[0].sentence


def test_columns_and_labels_are_read_in_other_spellings(tmp_path):
    rows = "".join(f"{k:08d}_000.png,{'pleural thickening' if k else 'no finding'},0,{k}.0,50,M,PA\n" for k in range(6))
    root = nih(tmp_path, rows)
    file = root / TABLE
    file.write_text(file.read_text().replace(NIH, NIH.lower().replace(" ", "_")))
    cases = index_source(f"nih:{root}")
    assert sum(map(sum, cases["labels"])) == 5
    assert list(cases["patient_id"]) == list("012345")
    assert set(cases["sex"]) == {"male"}


def test_rows_listed_twice_count_once_or_are_refused(tmp_path):
    root = nih(tmp_path)
    file, first = root / TABLE, "00000000_000.png,Hernia,0,0,50,M,PA\n"
    file.write_text(file.read_text() + first)
    cases = index_source(f"nih:{root}")
    assert len(cases) == 6
    assert cases.attrs["inventory"].left["listed again, with the same labels"] == {".png": 1}
    file.write_text(file.read_text() + first.replace("Hernia", "Mass"))
    with pytest.raises(DataError, match=r"00000000_000.png is there twice, with Mass 0.0 and 1.0"):
        index_source(f"nih:{root}")


def test_unlisted_images_are_counted_once(tmp_path):
    root = nih(tmp_path)
    film(root / "images_001/images/77777777_000.png", 9)
    left = index_source(f"nih:{root}").attrs["inventory"].left
    assert left[f"not in {TABLE}"] == {".png": 1}
    assert "not used by this source" not in left


def test_labels_that_training_lacks_are_left_out_by_option(tmp_path):
    labels = ("Hernia", "No Finding", "Mass")
    rows = "".join(f"{k:08d}_000.png,{labels[k % 3]},0,{k},50,M,PA\n" for k in range(60))
    root = nih(tmp_path, rows)
    for k in range(6, 60):
        film(root / f"images_001/images/{k:08d}_000.png", k)
    for name in ("train_val_list.txt", "test_list.txt"):
        (root / name).unlink()
    (problem,) = inspect(f"nih:{root}").audit.problems
    assert "Add ',labels=mass|hernia' to the data source to use only the others." in problem
    assert inspect(f"nih:{root},labels=mass|hernia").audit.problems == ()


def test_a_place_that_is_not_the_data_set_is_named(tmp_path):
    root = nih(tmp_path / "a/nih")
    with pytest.raises(DataError, match=f"holds none. Write nih:{root}, which does"):
        index_source(f"nih:{root / 'images_001/images'}")
    with pytest.raises(DataError, match=rf"is a file\. Write nih:{root}\."):
        index_source(f"nih:{root / TABLE}")
    shutil.copytree(root, root.parent / "copy")
    with pytest.raises(DataError, match=r"needs the folder of one data set, but .*/a holds .*copy, .*nih"):
        index_source(f"nih:{root.parent}")


@pytest.mark.parametrize(
    "source", ["nih", "nlm", "jsrt", "folder", "covid_radiography", "rsna", "chest_xray", "cxr4", "padchest", "vindr"]
)
def test_archives_are_to_be_unpacked(tmp_path, source):
    (tmp_path / "films.zip").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match=r"Unpack the archives there first: films.zip\."):
        index_source(f"{source}:{tmp_path}")
    with pytest.raises(DataError, match=r"is a file\. Unpack the archive, and name its folder\."):
        index_source(f"{source}:{tmp_path / 'films.zip'}")


def test_packed_images_are_told(tmp_path):
    root = nih(tmp_path)
    shutil.rmtree(root / "images_001")
    (root / "images_001.tar.gz").write_bytes(b"\x1f\x8b")
    (root / f"{TABLE}.zip").write_bytes(b"PK\3\4")  # beside the table: not taken for it
    with pytest.raises(DataError, match=r"none is there: 00000000_000.png, for one. Unpack .*images_001.tar.gz"):
        index_source(f"nih:{root}")


def chexpert(root: Path, cell: str = "1.0", *, separator: str = ",", beginning: str = "CheXpert-v1.0-small/") -> str:
    for part, people in (("train", range(3)), ("valid", range(3, 5))):
        lines = separator.join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]) + "\n"
        for k in people:
            path = f"{part}/patient{k:05d}/study1/view1_frontal"
            film(root / f"{path}.JPG", k)
            lines += separator.join([f"{beginning}{path}.jpg", "Male", "60", "Frontal", "AP", *([cell] * 14)]) + "\n"
        (root / f"{part}.csv").write_text(lines)
    return f"chexpert:{root}"


@pytest.mark.parametrize(
    ("cell", "value"), [("1,0", 1), ("-1,0", UNCERTAIN), ("", 0), ("nan", 0), ("NA", 0), ("True", 1), ("False", 0)]
)
def test_cells_of_spreadsheets_are_read(tmp_path, cell, value):
    cases = index_source(chexpert(tmp_path / "renamed", cell, separator=";"))
    assert {each for labels in cases["labels"] for each in labels} == {value}
    assert list(cases["split"]) == ["train"] * 3 + ["validation"] * 2


def test_windows_paths_of_chexpert_are_read(tmp_path):
    source = chexpert(tmp_path)
    for name in ("train.csv", "valid.csv"):
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("/patient", "\\patient"))
    assert len(index_source(source)) == 5


def mimic(root: Path, number: str = "{}", part: str = "Validate") -> str:
    labels = "subject_id,study_id," + ",".join(CHEXPERT) + "\n"
    images = "dicom_id,study_id,subject_id,split\n"
    for k in range(4):
        who, study = f"1000000{k}", f"5000000{k}"
        labels += f"{number.format(who)},{study}," + ",".join(["1.0"] * 14) + "\n"
        images += f"aa{k},{number.format(study)},{who},{part if k else 'train'}\n"
        film(root / f"files/p10/p{who}/s{study}/aa{k}.JPEG", k)
    (root / "mimic-cxr-2.0.0-chexpert.csv").write_text(labels)
    (root / "mimic-cxr-2.0.0-split.csv").write_text(images)
    return f"mimic_cxr:{root}"


def test_mimic_ids_as_floats_join(tmp_path):
    cases = index_source(mimic(tmp_path, "{}.0"))
    assert list(cases["patient_id"]) == [f"1000000{k}" for k in range(4)]
    assert list(cases["split"]) == ["train"] + ["validation"] * 3


def test_mimic_study_with_two_answers_is_refused(tmp_path):
    source, file = mimic(tmp_path), tmp_path / "mimic-cxr-2.0.0-chexpert.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[1].replace("1.0", "0.0") + "\n")
    with pytest.raises(DataError, match=r"chexpert.csv:6: each study must have one row, but 50000000 has"):
        index_source(source)


@pytest.mark.parametrize(
    ("text", "result"), [("7.0", "7"), ("7.00", "7"), ("7", "7"), ("7.5", "7.5"), ("p7.0", "p7.0"), ("007.0", "007")]
)
def test_identifiers_lose_the_point_of_floats(text, result):
    assert identifier(text) == result


@pytest.mark.parametrize("suffix", [".PNG", ".jpeg", ".DCM"])
def test_vindr_images_are_found_in_other_formats(tmp_path, suffix):
    for part in ("train", "test"):
        reader = ",R1" if part == "train" else ""
        head = "image_id,rad_id,Edema\n" if part == "train" else "image_id,Edema\n"
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/image_labels_{part}.csv").write_text(f"{head}{part}1{reader},1\n")
        film(tmp_path / f"{part}/{part}1{suffix}", 1)
    assert parts(f"vindr:{tmp_path}") == ["test", "train"]
    with pytest.raises(DataError, match=f"Write vindr:{tmp_path}, which does"):
        index_source(f"vindr:{tmp_path / 'train'}")


def listing(tmp_path: Path, cells: list[str], separator: str) -> str:
    for k in range(len(cells)):
        film(tmp_path / f"{k}.png", k)
    lines = ["path\tfindings", *(f"{k}.png\t{cell}" for k, cell in enumerate(cells))]
    (tmp_path / "t.tsv").write_text("\n".join(lines))
    return f"table:{tmp_path / 't.tsv'},labels=findings,separator={separator}"


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["Mass;Pleural Effusion", "mass; pleural_effusion", "MASS", "No Finding"], ";"),
        (["['Mass', 'Pleural Effusion']", "['Mass', 'Pleural Effusion']", "['Mass']", "[]"], ","),
    ],
)
def test_spellings_of_a_listed_label_are_one(tmp_path, cells, separator):
    cases = index_source(listing(tmp_path, cells, separator))
    assert cases.attrs["label_names"] == ["mass", "pleural_effusion"]
    assert list(cases["labels"]) == [(1, 1), (1, 1), (1, 0), (0, 0)]


def test_listed_labels_that_a_sign_tells_apart_stay_two(tmp_path):
    cases = index_source(listing(tmp_path, ["TB+", "TB-", "TB"], ";"))
    assert len(cases.attrs["label_names"]) == len(set(cases.attrs["label_names"])) == 3


def test_blank_rows_of_listed_labels_are_told(tmp_path):
    guesses = index_source(listing(tmp_path, ["Mass", "", "Edema"], "|")).attrs["inventory"].guesses
    assert "1 of 3 rows are blank in 'findings' and count as without any label." in [each.sentence for each in guesses]


def test_numbers_are_no_listed_labels(tmp_path):
    with pytest.raises(DataError, match=r"must list names of labels in the column 'findings', but it holds numbers"):
        index_source(listing(tmp_path, ["1", "0", "1.0"], ";"))


def test_columns_of_one_label_are_refused(tmp_path):
    film(tmp_path / "0.png", 0)
    (tmp_path / "t.csv").write_text("path,Pleural Effusion,pleural_effusion\n0.png,1,0\n")
    with pytest.raises(DataError, match="labels of different names, but got 'Pleural Effusion' and 'pleural_effusion'"):
        index_source(f"table:{tmp_path / 't.csv'},labels=Pleural Effusion|pleural_effusion")


@pytest.mark.parametrize(("cell", "value"), [("nan", None), ("", None), ("True", 1), ("FALSE", 0), ("1,0", 1)])
def test_cells_of_a_table_are_read(tmp_path, cell, value):
    film(tmp_path / "0.png", 0)
    (tmp_path / "t.csv").write_text(f"path;edema;mass\n0.png;{cell};1\n")
    assert index_source(f"table:{tmp_path / 't.csv'},labels=edema|mass")["labels"][0] == (value, 1)


def test_one_part_of_a_folder_is_told(tmp_path):
    for part in ("Train", "Val", "Test"):
        for label in ("COVID-19", "Normal"):
            film(tmp_path / part / label / f"images/{part}{label}.png", hash((part, label)) % 1000)
            film(tmp_path / part / label / f"lung masks/{part}{label}.png", 1)
    guesses = index_source(f"folder:{tmp_path / 'Train'}").attrs["inventory"].guesses
    assert f"Train seems to be a part of a data set, beside Test and Val. For all write folder:{tmp_path}." in [
        guess.sentence for guess in guesses
    ]
    assert set(parts(f"folder:{tmp_path}")) == {"train", "validation", "test"}


def test_readings_in_utf16_are_read(tmp_path):
    film(tmp_path / "CXR_png/CHNCXR_0001_1.png", 1)
    (tmp_path / "ClinicalReadings").mkdir()
    (tmp_path / "ClinicalReadings/CHNCXR_0001_1.txt").write_text("male 45yrs\nTB", encoding="utf-16")
    cases = index_source(f"nlm:{tmp_path}")
    assert (cases["sex"][0], cases["age"][0]) == ("male", 45)
