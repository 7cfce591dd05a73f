"""Tables as people have them: column names, class spellings, patients, paths, parts, metadata."""

from __future__ import annotations

import os

import openpyxl
import pytest

from lungtune.data.dataset import inspect
from lungtune.data.manifest import Manifest
from lungtune.data.sources import index_source
from lungtune.errors import DataError


@pytest.fixture
def table(write, tmp_path):
    """Write a table and the images `0.png`.. `5.png`; return its source."""

    def table(text, name="t.csv", encoding="utf-8", images=6):
        for i in range(images):
            write(f"{i}.png", i)
        (tmp_path / "data" / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return f"table:{tmp_path / 'data' / name}"

    return table


def _inventory(source):
    return index_source(source).attrs["inventory"]


# A1: classes


def test_names_that_differ_in_a_sign_stay_two_classes(table):
    cases = index_source(table("path,label\n0.png,TB-\n1.png,TB\n2.png,TB+\n"))
    assert list(cases["label"]) == ["tb-", "tb", "tb+"]


@pytest.mark.parametrize("value", ["-1", "-1.0"])
def test_uncertain_in_a_column_of_one_class_is_refused(table, value):
    source = table(f"path,label\n0.png,0.0\n1.png,1.0\n2.png,{value}\n")
    with pytest.raises(DataError, match=rf"t\.csv:4: .*'{value}' stands for an uncertain finding.*labels=label.*chexp"):
        index_source(source)
    cases = index_source(f"{source},labels=label")
    assert cases["label"].isna().all()
    assert [row[0] for row in cases["labels"]][:2] == [0.0, 1.0]


def test_two_spellings_of_a_number_are_refused(table):
    with pytest.raises(DataError, match=r"spell each class in one way, but has '0' and '0\.0'"):
        index_source(table("path,label\n0.png,0\n1.png,0.0\n2.png,1\n"))


def test_spellings_of_one_class_are_merged_and_named(table):
    source = table("path,label\n0.png,COVID-19\n1.png,covid 19\n2.png,Covid_19\n3.png,Normal\n")
    assert sorted(set(index_source(source)["label"])) == ["covid_19", "normal"]
    assert "COVID-19 = Covid_19 = covid 19" in _inventory(source).columns["label"]


@pytest.mark.parametrize("value", ["", "nan", "N/A", "<NA>"])
def test_a_missing_class_is_refused(table, value):
    with pytest.raises(DataError, match=r"t\.csv:3: every row must have a label"):
        index_source(table(f"path,label\n0.png,a\n1.png,{value}\n"))


def test_several_findings_in_one_value_are_refused(table):
    with pytest.raises(DataError, match=r"t\.csv:2: .*'Mass\|Nodule' names several.*labels=a\|b"):
        index_source(table("path,label\n0.png,Mass|Nodule\n1.png,Mass\n"))


# A4: columns


@pytest.mark.parametrize(
    "name", ["patient_id", "PatientID", "Patient ID", "subject_id", "patientid", "patient", "PATIENT-ID", "Patient Id"]
)
def test_well_known_names_of_the_patient(table, name):
    assert list(index_source(table(f"path,label,{name}\n0.png,a,p1\n1.png,b,p2\n"))["patient_id"]) == ["p1", "p2"]


@pytest.mark.parametrize(
    "header", ["Path,Class", "filename,diagnosis", "Image Index,Target", "image,finding", "File,dx"]
)
def test_well_known_names_of_path_and_class(table, header):
    cases = index_source(table(f"{header}\n0.png,a\n1.png,b\n"))
    assert list(cases["case_id"]) == ["0.png", "1.png"]
    assert list(cases["label"]) == ["a", "b"]


@pytest.mark.parametrize("name", ["dataset", "Subset", "partition", "fold", "split"])
def test_well_known_names_of_the_part(table, name):
    values = ["Train", "validate", "TEST", "val", "training set"]
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{value}\n" for i, value in enumerate(values))
    cases = index_source(table(f"path,label,{name}\n{rows}"))
    assert list(cases["split"]) == ["train", "validation", "test", "validation", "train"]


def test_numbered_folds_are_no_parts_but_named(table):
    source = table("path,label,fold\n0.png,a,1\n1.png,b,2\n")
    assert index_source(source)["split"].isna().all()
    assert _inventory(source).unused == ["fold"]


def test_mask_path_and_report_are_understood(table):
    cases = index_source(table("path,label,mask_path,report\n0.png,a,1.png,clear\n2.png,b,,\n"))
    assert cases["mask_path"][0].endswith("1.png")
    assert list(cases["text"]) == ["clear", None]


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("path,label,PatientID,patientid", "'PatientID' and 'patientid' differ in case only"),
        ("path,label,patient_id,subject_id", "one column for the patient, but 'patient_id' and 'subject_id' could be"),
        ("path,label,patient_id,PatientID", "one column for the patient, but 'patient_id' and 'PatientID' could be"),
        (
            "path,label,class,x",
            "one column for the class, but 'label' and 'class' could be. Choose it, as in label=class",
        ),
    ],
)
def test_two_columns_of_one_meaning_are_refused(table, header, named):
    with pytest.raises(DataError, match=named):
        index_source(table(f"{header}\n0.png,a,p1,q1\n1.png,b,p1,q2\n2.png,b,p2,q2\n"))


def test_an_option_chooses_among_columns_of_one_meaning(table):
    source = table("path,label,patient_id,subject_id\n0.png,a,p1,q1\n1.png,b,p1,q2\n2.png,b,p2,q2\n")
    assert list(index_source(f"{source},patient=subject_id")["patient_id"]) == ["q1", "q2", "q2"]


def test_a_column_that_says_the_same_is_named_not_refused(table):
    source = table("path,label,target\n0.png,a,0\n1.png,b,1\n")
    assert list(index_source(source)["label"]) == ["a", "b"]
    assert _inventory(source).unused == ["target (says the same as 'label')"]


def test_unused_columns_are_named_with_a_close_meaning(table):
    inventory = _inventory(table("path,label,patiend_id,weight\n0.png,a,p1,3\n1.png,b,p2,4\n"))
    assert inventory.unused == ["patiend_id", "weight"]
    (guess,) = inventory.guesses
    assert guess.sentence == "The column 'patiend_id' is not used. Did you mean 'patient_id'?"
    assert (guess.about, guess.option) == ("patients", "patient=patiend_id")


def test_patients_by_an_expression_on_the_path(write, table):
    for name in ("p1_a.png", "p1_b.png", "p2_a.png"):
        write(name)
    source = table("path,label\np1_a.png,a\np1_b.png,b\np2_a.png,a\n")
    cases = index_source(f"{source},patient=^(p\\d+)_")
    assert list(cases["patient_id"]) == ["p1", "p1", "p2"]
    assert cases.attrs["inventory"].patients == r"by ^(p\d+)_ on the path, of 3 of 3 images"
    with pytest.raises(DataError, match=r"patient must match the images' paths, but '\^q\(.\)' matches none"):
        index_source(f"{source},patient=^q(.)")


# A15: paths, encodings


def test_windows_paths_and_parts_below_folders(write, table):
    write("train/a.png")
    write("test/a.png")
    cases = index_source(table("path;label\ntrain\\a.png;x\ntest\\a.png;y\n"))
    assert list(cases["case_id"]) == ["test/a.png", "train/a.png"]
    assert all(os.path.isfile(path) for path in cases["path"])


def test_paths_with_a_beginning_of_elsewhere(write, table):
    write("train/a.png")
    write("test/a.png")
    source = table("Path,label\nCheXpert/train/a.png,x\nCheXpert/test/a.png,y\n")
    cases = index_source(source)
    assert all(os.path.isfile(path) for path in cases["path"])
    assert "without their beginning 'CheXpert/'" in cases.attrs["inventory"].guesses[0].sentence


def test_images_names_the_folder_of_the_paths(write, table, tmp_path):
    write("elsewhere/a.png")
    write("elsewhere/b.png")
    source = table("path,label\na.png,x\nb.png,y\n")
    with pytest.raises(DataError, match=r"none of 2 is: there is no .*a\.png, for one\..* add images=FOLDER"):
        index_source(source)
    assert len(index_source(f"{source},images={tmp_path / 'data/elsewhere'}")) == 2


def test_names_without_suffix_or_in_other_case(write, table):
    write("IMG_1.PNG")
    write("u\u0308.png")
    cases = index_source(table("image_id,label\nimg_1,a\n\u00fc,b\n"))
    assert all(os.path.isfile(path) for path in cases["path"])


def test_a_file_name_that_is_not_utf8_is_one_sentence(write, table, tmp_path):
    os.rename(write("x.png"), os.fsencode(tmp_path / "data") + b"/Thorax_\xe4.png")
    with pytest.raises(DataError, match=r"must be UTF-8, but 1 of 2 are not, first .*Thorax_\\xe4\.png"):
        index_source(table("path,label\nThorax_\u00e4.png,a\n0.png,b\n", encoding="cp1252"))


def test_one_file_in_two_spellings_is_refused(table):
    with pytest.raises(
        DataError, match=r"t\.csv:3: each image must be listed once, but 0\.PNG is in line 2 too as 0\.p"
    ):
        index_source(table("path,label\n0.png,a\n0.PNG,b\n"))


def test_excel_tables_are_read(table, tmp_path):
    source = table("")
    book = openpyxl.Workbook()
    for row in (["Image", "Class", "Patient ID"], ["0.png", "a", 7], ["1.png", "b", 8]):
        book.active.append(row)
    book.save(tmp_path / "data/t.xlsx")
    cases = index_source(source.replace("t.csv", "t.xlsx"))
    assert list(cases["patient_id"]) == ["7", "8"]


def test_an_assumed_encoding_is_named(table):
    (guess,) = _inventory(table("path,label\n0.png,Grüße\n1.png,b\n", encoding="cp1252")).guesses
    assert "is not UTF-8 and was read as cp1252" in guess.sentence


# A6: patients


def _patients(write, tmp_path, ids):
    rows = ["path,label,patient_id"]
    for i, name in enumerate(ids):
        write(f"{i}.png", i)
        rows.append(f"{i}.png,{'ab'[i % 2]},{name}")
    (tmp_path / "data/t.csv").write_text("\n".join(rows))
    return f"table:{tmp_path / 'data/t.csv'}"


def test_placeholders_are_nobody_and_counted(write, tmp_path):
    ids = ["nan", "None", "unknown", "ANONYMOUS", "n/a", "-", ""] * 2 + [f"p{i}" for i in range(46)]
    inspection = inspect(_patients(write, tmp_path, ids))
    assert inspection.cases["patient_id"].notna().sum() == 46
    (warning,) = (w for w in inspection.audit.warnings if "names nobody" in w)
    assert warning.startswith("12 of 60 images have a patient id that names nobody (")
    assert "'nan' 2" in warning
    groups = [g for part in inspection.manifest.parts.values() for g in part.group]
    assert len(set(groups)) == 60
    assert inspection.manifest.unit == "patients or images"


def test_one_id_of_a_large_share_is_a_warning(write, tmp_path):
    ids = ["0"] * 15 + [f"p{i}" for i in range(45)]
    warnings = inspect(_patients(write, tmp_path, ids)).audit.warnings
    assert any("A patient should have few of the images, but '0' has 15 of 60" in w for w in warnings)
    ids = ["0"] * 10 + [f"p{i}" for i in range(50)]
    assert not any("should have few" in w for w in inspect(_patients(write, tmp_path, ids)).audit.warnings)


def test_two_spellings_of_one_id_are_a_warning(write, tmp_path):
    ids = ["0007", "7", "7.0", "P12", "p12"] + [f"q{i}" for i in range(55)]
    inspection = inspect(_patients(write, tmp_path, ids))
    (warning,) = (w for w in inspection.audit.warnings if "one id" in w)
    assert "2 may have several spellings: '0007' and '7' and '7.0'; 'P12' and 'p12'. They count" in warning
    assert inspection.cases["patient_id"].nunique() == 60


# Metadata


def test_metadata_reach_cases_and_manifest(write, table, tmp_path):
    rows = [f"{i}.png,{'ab'[i % 2]},S{i % 3},GE,X{i % 2},ap,{'MF'[i % 2]},0{40 + i % 9}Y\n" for i in range(60)]
    header = "path,label,Hospital,Manufacturer,Manufacturer Model Name,View Position,Patient Gender,Patient Age\n"
    inspection = inspect(table(header + "".join(rows), images=60))
    first = inspection.cases.set_index("case_id").loc["0.png"]
    assert [first[n] for n in ("site", "scanner", "view", "sex", "age")] == ["S0", "GE X0", "AP", "male", 40.0]
    train = inspection.manifest.parts["train"]
    assert set(train.metadata) == {"site", "scanner", "view", "sex", "age"}
    assert len(train.metadata["age"]) == len(train)
    inspection.save(tmp_path / "split.json")
    assert Manifest.load(tmp_path / "split.json") == inspection.manifest
    alarms = {s.feature for s in inspection.audit.shortcuts if s.alarm}
    assert {"scanner", "sex"} <= alarms
    assert "site" not in alarms
    assert any("A model may learn the scanner instead of the lungs" in w for w in inspection.audit.warnings)


def test_metadata_do_not_change_the_hash(table):
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(60)]
    bare = inspect(table("path,label\n" + "\n".join(rows), images=60)).manifest
    rich = inspect(table("path,label,site\n" + "\n".join(f"{row},s{i % 2}" for i, row in enumerate(rows)))).manifest
    assert rich.hash == bare.hash
    assert bare.parts["train"].metadata == {}
    assert (bare.unit, rich.unit) == ("images", "images")


def test_impossible_ages_are_unknown_and_named(table):
    source = table("path,label,age\n0.png,a,58\n1.png,b,414\n2.png,b,018M\n3.png,b,old\n")
    assert list(index_source(source)["age"]) == [58.0, None, 1.5, None]
    assert "unknown: '414' 1, 'old' 1" in _inventory(source).columns["age"]
