"""Small trees in the published layouts of data sets with several labels a case."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from lungtune.core.fields import UNCERTAIN
from lungtune.data import store
from lungtune.data.cases import traits
from lungtune.data.dataset import inspect
from lungtune.data.scan import scan
from lungtune.data.sources import index_source
from lungtune.data.sources._labelled import CHEXPERT
from lungtune.errors import DataError

from .conftest import picture

_NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def dicom(path: Path, seed: int, **tags: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data, pixels = Dataset(), picture(seed).astype(np.uint16) * 16
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def row(cases, case: str) -> dict:
    """Return one case, its labels by name."""
    (found,) = (each for each in cases.to_dict("records") if each["case_id"] == case)
    return {**found, "labels": dict(zip(cases.attrs["label_names"], found["labels"], strict=True))}


@pytest.fixture
def nih(write, tmp_path):
    root = tmp_path / "data"
    rows = ["00000001_000.png,Cardiomegaly|Emphysema,0,1,58,M,PA,2682,2749,0.143,0.143\n"]
    rows += ["00000001_001.png,Pleural_Thickening,1,1,58,M,AP,2682,2749,0.143,0.143\n"]
    rows += ["00000002_000.png,No Finding,0,2,081Y,F,PA,2500,2048,0.171,0.171\n"]
    rows += ["00000003_000.png,Hernia,0,3,74,F,PA,2500,2048,0.168,0.168\n"]
    text(root / "Data_Entry_2017.csv", _NIH + "".join(rows))
    for folder, name in (("001", "00000001_000"), ("001", "00000001_001"), ("002", "00000002_000")):
        write(f"images_{folder}/images/{name}.png")
    text(root / "train_val_list.txt", "00000001_000.png\n00000001_001.png\n")
    text(root / "test_list.txt", "00000002_000.png\n00000003_000.png\n")
    return f"nih:{root}"


def test_nih_has_14_labels_official_lists_and_patients(nih):
    cases = index_source(nih)
    assert len(cases.attrs["label_names"]) == 14
    assert cases["label"].isna().all()
    first = row(cases, "00000001_000.png")
    assert {name for name, value in first["labels"].items() if value == 1} == {"cardiomegaly", "emphysema"}
    assert (first["patient_id"], first["split"], first["view"], first["sex"], first["age"]) == (
        "1",
        "train",
        "PA",
        "male",
        58.0,
    )
    clear = row(cases, "00000002_000.png")
    assert set(clear["labels"].values()) == {0.0}
    assert (clear["split"], clear["age"]) == ("test", 81.0)
    assert row(cases, "00000001_001.png")["labels"]["pleural_thickening"] == 1
    assert traits(cases) == {"labels"}


def test_missing_images_are_counted_not_hidden(nih):
    inventory = index_source(nih).attrs["inventory"]
    assert inventory.left["listed in the table, but not there"][".png"] == 1
    assert any("1 of 4 listed images are not there" in guess.sentence for guess in inventory.guesses)
    assert inventory.read[".png"] == 3
    assert inventory.columns["Patient ID"] == "patient_id"
    assert "Follow-up #" in inventory.unused


def test_labels_and_views_are_chosen(nih):
    cases = index_source(f"{nih},labels=hernia|pleural thickening,view=pa")
    assert cases.attrs["label_names"] == ["hernia", "pleural_thickening"]
    assert set(cases["view"]) == {"PA"}
    assert cases.attrs["inventory"].left["not view=pa"]["AP"] == 1
    with pytest.raises(DataError, match=r"labels must name labels of the data, but got 'hernai'.*Hernia"):
        index_source(f"{nih},labels=hernai")
    with pytest.raises(DataError, match="view must be one of frontal, pa, ap, lateral"):
        index_source(f"{nih},view=side")


def test_an_unknown_nih_label_is_refused(nih, tmp_path):
    file = tmp_path / "data/Data_Entry_2017.csv"
    file.write_text(file.read_text().replace("Hernia", "Herna"))
    with pytest.raises(DataError, match=r"Data_Entry_2017.csv:5: .*'Herna'.*Did you mean 'Hernia'"):
        index_source(nih)


def test_an_image_in_both_nih_lists_is_refused(nih, tmp_path):
    text(tmp_path / "data/test_list.txt", "00000001_000.png\n")
    with pytest.raises(DataError, match=r"00000001_000\.png is in both"):
        index_source(nih)


@pytest.fixture
def chexpert(write, tmp_path):
    root = tmp_path / "data/CheXpert-v1.0-small"
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT) + "\n"

    def line(path: str, about: str, **values: str) -> str:
        cells = [values.get(name.replace(" ", "_"), "") for name in CHEXPERT]
        write(f"CheXpert-v1.0-small/{path}")
        return f"CheXpert-v1.0-small/{path},{about}," + ",".join(cells) + "\n"

    one = line("train/patient00001/study1/view1_frontal.jpg", "Female,68,Frontal,AP", Edema="1.0", Fracture="-1.0")
    two = line("train/patient00001/study1/view2_lateral.jpg", "Female,68,Lateral,", Edema="0.0", No_Finding="1.0")
    three = line("valid/patient64541/study1/view1_frontal.jpg", "Male,73,Frontal,PA", Pleural_Effusion="1.0")
    text(root / "train.csv", header + one + two)
    text(root / "valid.csv", header + three)
    return root


@pytest.mark.parametrize("place", ["", ".."], ids=["the folder", "its parent"])
def test_chexpert_keeps_uncertain_apart_from_blank(chexpert, place):
    cases = index_source(f"chexpert:{chexpert / place}")
    assert len(cases.attrs["label_names"]) == 14
    first = row(cases, "train/patient00001/study1/view1_frontal.jpg")
    assert (first["labels"]["edema"], first["labels"]["fracture"], first["labels"]["pneumonia"]) == (1, UNCERTAIN, 0)
    assert (first["patient_id"], first["split"], first["view"], first["age"]) == ("patient00001", "train", "AP", 68)
    assert row(cases, "valid/patient64541/study1/view1_frontal.jpg")["split"] == "validation"
    assert "uncertain" in traits(cases)
    guesses = {guess.option for guess in cases.attrs["inventory"].guesses}
    assert guesses == {"blank=unknown", "view=frontal"}


def test_chexpert_blank_can_be_unknown_and_views_frontal(chexpert):
    cases = index_source(f"chexpert:{chexpert},blank=unknown,view=frontal,labels=edema|pneumonia|fracture")
    assert set(cases["view"]) == {"AP", "PA"}
    first = row(cases, "train/patient00001/study1/view1_frontal.jpg")
    assert first["labels"] == {"edema": 1.0, "pneumonia": None, "fracture": UNCERTAIN}
    assert cases.attrs["inventory"].guesses == []


def test_an_odd_chexpert_value_is_refused(chexpert):
    file = chexpert / "train.csv"
    file.write_text(file.read_text().replace("-1.0", "2"))
    with pytest.raises(DataError, match=r"train.csv:2: Fracture must be 1, 0, -1 or blank, but got '2'"):
        index_source(f"chexpert:{chexpert}")


@pytest.fixture(params=["jpg", "dcm"])
def mimic(request, write, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    labels = "subject_id,study_id," + ",".join(sorted(CHEXPERT)) + "\n"
    edema = sorted(CHEXPERT).index("Edema")
    cells = lambda value: ",".join(value if k == edema else "" for k in range(14))  # noqa: E731
    studies = f"10000032,50414267,{cells('1.0')}\n10000764,57375967,{cells('-1.0')}\n"
    with gzip.open(root / "mimic-cxr-2.0.0-chexpert.csv.gz", "wt") as file:
        file.write(labels + studies)
    images = (
        ("02aa804e", "50414267", "10000032", "train", "PA"),
        ("174413ec", "50414267", "10000032", "train", "LATERAL"),
        ("096052b7", "57375967", "10000764", "validate", "AP"),
        ("0a0a0a0a", "51111111", "11111111", "test", "PA"),
    )
    text(
        root / "mimic-cxr-2.0.0-split.csv",
        "dicom_id,study_id,subject_id,split\n" + "".join(f"{','.join(each[:4])}\n" for each in images),
    )
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as file:
        file.write("dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns\n")
        file.writelines(f"{image},{who},{study},CHEST,{view},3056,2544\n" for image, study, who, _, view in images)
    for k, (image, study, who, _, _) in enumerate(images):
        path = f"files/p{who[:2]}/p{who}/s{study}/{image}.{request.param}"
        if request.param == "jpg":
            write(path)
        else:
            dicom(root / path, k)
    return f"mimic_cxr:{root}"


def test_mimic_images_have_their_studys_labels(mimic):
    cases = index_source(mimic)
    assert list(cases["split"]) == ["train", "train", "validation"]
    two = row(cases, "files/p10/p10000032/s50414267/174413ec")
    assert (two["labels"]["edema"], two["labels"]["fracture"], two["view"]) == (1, 0, "LATERAL")
    assert row(cases, "files/p10/p10000764/s57375967/096052b7")["labels"]["edema"] == UNCERTAIN
    assert set(cases["patient_id"]) == {"10000032", "10000764"}
    assert cases.attrs["inventory"].left["its study has no labels"]["image"] == 1
    assert len(index_source(f"{mimic},view=frontal")) == 2


@pytest.fixture
def padchest(tmp_path):
    root = tmp_path / "data"
    header = ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,"
    header += "Manufacturer_DICOM,Report,MethodLabel,Labels\n"
    lines = (
        ("a_01.png", "p1", "PA", "Physician", "\"['cardiomegaly', ' pleural effusion', 'cardiomegaly']\""),
        ("a_02.png", "p1", "L", "Physician", "\"['cardiomegaly', 'unchanged', '']\""),
        ("b_01.png", "p2", "AP_horizontal", "RNN_model", "['normal']"),
        ("c_01.png", "p3", "PA", "Physician", "\"['normal', 'exclude']\""),
        ("d_01.png", "p4", "PA", "RNN_model", ""),
    )
    rows = [
        f"{k},{name},{k},20140915,s{k},{who},1930.0,F,{view},ImagingDynamicsCompanyLtd,cardiomegali .,{how},{labels}\n"
        for k, (name, who, view, how, labels) in enumerate(lines)
    ]
    text(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", header + "".join(rows))
    for k, (name, *_) in enumerate(lines):
        path = root / str(k % 2) / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(k).astype(np.uint16) * 200).save(path)
    return f"padchest:{root}"


def test_padchest_lists_are_read_as_python_writes_them(padchest):
    cases = index_source(f"{padchest},least=1")
    assert cases.attrs["label_names"] == ["cardiomegaly", "normal", "pleural_effusion"]
    first = row(cases, "a_01.png")
    assert first["labels"] == {"cardiomegaly": 1.0, "normal": 0.0, "pleural_effusion": 1.0}
    assert (first["patient_id"], first["age"], first["sex"], first["view"]) == ("p1", 84.0, "female", "PA")
    assert first["text"] == "cardiomegali ."
    assert list(cases["view"]) == ["PA", "LATERAL", "AP"]
    left = cases.attrs["inventory"].left
    assert left["labelled exclude"]["image"] == left["without labels"]["image"] == 1


def test_padchest_labels_and_methods_are_chosen(padchest):
    assert index_source(f"{padchest},least=2").attrs["label_names"] == ["cardiomegaly"]
    cases = index_source(f"{padchest},labels=pleural effusion,method=physician,view=frontal")
    assert list(cases["case_id"]) == ["a_01.png"]
    assert cases.attrs["label_names"] == ["pleural_effusion"]
    with pytest.raises(DataError, match="none is of 100 images: 'cardiomegaly' has 2"):
        index_source(padchest)


def test_padchest_images_keep_their_16_bits(padchest):
    cases = index_source(f"{padchest},least=1")
    facts = scan(list(cases["path"]))
    assert facts["error"].isna().all()
    assert set(facts["mode"]) == {"I;16"}
    pixels = store.open_images(list(cases["path"]), list(facts["sha1"]), 32, "all", 1)
    assert pixels.std() > 20


@pytest.fixture
def vindr(tmp_path):
    root = tmp_path / "data"
    train = "image_id,rad_id,Aortic enlargement,Nodule/Mass,No finding\n"
    train += "".join(f"aa11,R{k},1,{int(k < 2)},0\n" for k in range(3))
    train += "".join(f"bb22,R{k},{int(k == 2)},0,1\n" for k in range(3))
    text(root / "annotations/image_labels_train.csv", train)
    text(root / "annotations/image_labels_test.csv", "image_id,Aortic enlargement,Nodule/Mass,No finding\ncc33,0,1,0\n")
    for part, name in (("train", "aa11"), ("train", "bb22"), ("test", "cc33")):
        dicom(root / part / f"{name}.dicom", len(name) + ord(name[0]), PatientSex="F", PatientAge="050Y")
    return f"vindr:{root}"


def test_vindr_readers_who_disagree_are_uncertain(vindr):
    cases = index_source(vindr)
    assert cases.attrs["label_names"] == ["aortic_enlargement", "nodule_mass", "no_finding"]
    assert row(cases, "train/aa11")["labels"] == {"aortic_enlargement": 1, "nodule_mass": UNCERTAIN, "no_finding": 0}
    assert row(cases, "train/bb22")["labels"]["aortic_enlargement"] == UNCERTAIN
    assert row(cases, "test/cc33")["labels"] == {"aortic_enlargement": 0, "nodule_mass": 1, "no_finding": 0}
    assert (row(cases, "test/cc33")["split"], row(cases, "test/cc33")["patient_id"]) == ("test", None)


def test_vindr_majority_decides_on_request(vindr):
    cases = index_source(f"{vindr},readers=majority")
    assert row(cases, "train/aa11")["labels"]["nodule_mass"] == 1
    assert row(cases, "train/bb22")["labels"]["aortic_enlargement"] == 0
    assert "uncertain" not in traits(cases)
    with pytest.raises(DataError, match="readers must be agree or majority, but got 'mean'"):
        index_source(f"{vindr},readers=mean")


def test_folders_without_the_tables_are_refused(tmp_path, write):
    write("x.png")
    for name in ("nih", "chexpert", "mimic_cxr", "padchest", "vindr"):
        with pytest.raises(DataError, match=rf"The source '{name}' needs a folder with .*csv"):
            index_source(f"{name}:{tmp_path / 'data'}")


def test_a_table_lists_labels_by_a_separator(write, tmp_path):
    rows = ["path,Findings", "a.png,Mass;Pleural effusion", "b.png,No Finding", "c.png,"]
    text(tmp_path / "data/t.csv", "\n".join(rows))
    for name in "abc":
        write(f"{name}.png")
    cases = index_source(f"table:{tmp_path / 'data/t.csv'},labels=Findings,separator=;")
    assert cases.attrs["label_names"] == ["mass", "pleural_effusion"]
    assert list(cases["labels"]) == [(1, 1), (0, 0), (0, 0)]
    with pytest.raises(DataError, match="separator must be given with labels"):
        index_source(f"table:{tmp_path / 'data/t.csv'},separator=;")


def test_uncertain_labels_of_a_table_enter_the_hash_alone(write, tmp_path):
    def manifest(cell: str):
        rows = ["path,patient_id,edema", *(f"{k}.png,p{k},{cell if k == 3 else k % 2}" for k in range(30))]
        text(tmp_path / "data/t.csv", "\n".join(rows))
        return inspect(f"table:{tmp_path / 'data/t.csv'},labels=edema").manifest

    for k in range(30):
        write(f"{k}.png", k)
    blank, uncertain = manifest(""), manifest("-1")
    assert blank.hash != uncertain.hash
    assert uncertain.matches(blank.hash)
    assert not blank.matches(uncertain.hash)
