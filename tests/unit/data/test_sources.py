"""Data sources: directory layouts as users have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lungtune.data.sources import index_source, names, parse_source, summaries
from lungtune.errors import DataError

KAGGLE = {
    "train/NORMAL/IM-0115-0001.jpeg": ("normal", "train/im-0115"),
    "train/NORMAL/NORMAL2-IM-1427-0001.jpeg": ("normal", "train/normal2-im-1427"),
    "train/PNEUMONIA/person12_bacteria_46.jpeg": ("bacterial", "train/person12"),
    "train/PNEUMONIA/person12_virus_47.jpeg": ("viral", "train/person12"),
    "val/PNEUMONIA/person1946_bacteria_4874.jpeg": ("bacterial", "train/person1946"),
    "test/NORMAL/IM-0115-0001.jpeg": ("normal", "test/im-0115"),
    "test/PNEUMONIA/person12_virus_1.jpeg": ("viral", "test/person12"),
}
MENDELEY = {
    "train/NORMAL/NORMAL-1003233-0001.jpeg": ("normal", "train/normal-1003233"),
    "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg": ("bacterial", "train/bacteria-1008087"),
    "train/PNEUMONIA/VIRUS-1017237-0002.jpeg": ("viral", "train/virus-1017237"),
    "test/PNEUMONIA/BACTERIA-1135262-0001.jpeg": ("bacterial", "test/bacteria-1135262"),
}


def found(spec: str) -> dict[str, tuple[str, str | None]]:
    cases = index_source(spec)
    return {row.case_id: (row.label, row.patient_id) for row in cases.itertuples()}


def expected(layout: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    parts = {"val": "validation"}
    split = {name: name.split("/") for name in layout}
    return {"/".join([parts.get(p[0], p[0]), p[1].lower(), p[2]]): layout[name] for name, p in split.items()}


@pytest.mark.parametrize("layout", [KAGGLE, MENDELEY], ids=["kaggle", "mendeley"])
@pytest.mark.parametrize("above", ["", "chest_xray", "chest_xray/chest_xray", "CellData/chest_xray"])
def test_chest_xray_layouts(write, tmp_path, layout, above):
    for name in layout:
        write(Path(above, name))
    assert found(f"chest_xray:{tmp_path / 'data'}") == expected(layout)


def test_chest_xray_skips_archive_junk(write, tmp_path):
    for name in KAGGLE:
        write(f"chest_xray/{name}")
        junk = write(f"__MACOSX/chest_xray/{Path(name).parent}/._{Path(name).name}")
        junk.write_bytes(b"\0\5\26\7")
        (tmp_path / "data/chest_xray" / Path(name).parent / f"._{Path(name).name}").write_bytes(b"\0\5\26\7")
    (tmp_path / "data/chest_xray/train/NORMAL/.DS_Store").write_bytes(b"\0")
    (tmp_path / "data/chest_xray/train/.DS_Store").write_bytes(b"\0")
    assert found(f"chest_xray:{tmp_path / 'data'}") == expected(KAGGLE)


def test_chest_xray_takes_any_case_and_suffix(write, tmp_path):
    write("TRAIN/normal/im-0001-0001.JPG")
    write("Train2/normal/im-0009-0001.JPG")  # not a part
    write("TRAIN/Pneumonia/PERSON7_VIRUS_3.PNG")
    write("Test/pneumonia/Bacteria-5-0001.Jpeg")
    assert found(f"chest_xray:{tmp_path / 'data'}") == {
        "train/normal/im-0001-0001.JPG": ("normal", "train/im-0001"),
        "train/pneumonia/PERSON7_VIRUS_3.PNG": ("viral", "train/person7"),
        "test/pneumonia/Bacteria-5-0001.Jpeg": ("bacterial", "test/bacteria-5"),
    }


def test_chest_xray_case_ids_do_not_depend_on_nesting(write, tmp_path):
    for name in KAGGLE:
        write(f"a/{name}")
        write(f"b/chest_xray/chest_xray/{name}")
    flat, nested = (set(found(f"chest_xray:{tmp_path / 'data' / top}")) for top in "ab")
    assert flat == nested


@pytest.mark.parametrize("name", ["person3_4.jpeg", "bacteria_virus_1.jpeg"])
def test_chest_xray_reports_a_file_name_without_a_class(write, tmp_path, name):
    write("train/NORMAL/IM-0001-0001.jpeg")
    write(f"train/PNEUMONIA/{name}")
    with pytest.raises(DataError, match=rf"must name 'bacteria' or 'virus'.*1 does not: train/PNEUMONIA/{name}"):
        index_source(f"chest_xray:{tmp_path / 'data'}")


def test_chest_xray_reports_pneumonia_among_the_normals(write, tmp_path):
    write("train/NORMAL/person1_virus_2.jpeg")
    with pytest.raises(DataError, match="a file in NORMAL must name neither"):
        index_source(f"chest_xray:{tmp_path / 'data'}")


def test_chest_xray_names_at_most_ten_unclear_files(write, tmp_path):
    for number in range(12):
        write(f"train/PNEUMONIA/x{number:02}.jpeg")
    with pytest.raises(DataError, match=r"12 do not: .*x09.jpeg and 2 more"):
        index_source(f"chest_xray:{tmp_path / 'data'}")


def test_chest_xray_promises_all_three_classes(write, tmp_path):
    write("train/NORMAL/IM-0001-0001.jpeg")
    cases = index_source(f"chest_xray:{tmp_path / 'data'}")
    assert cases.attrs["classes"] == ["normal", "bacterial", "viral"]


def test_chest_xray_elsewhere_suggests_class_folders(write, tmp_path):
    write("covid/a.png")
    with pytest.raises(DataError, match=r"there is none in .* use folder:"):
        index_source(f"chest_xray:{tmp_path / 'data'}")


def test_folder_without_parts(write, tmp_path):
    write("Viral Pneumonia/ein Bild ü.png")
    write("NORMAL/sub/b.jpg")
    write("NORMAL/notes.png").unlink()
    (tmp_path / "data/NORMAL/notes.txt").write_text("no image")
    cases = index_source(f"folder:{tmp_path / 'data'}")
    assert list(cases["case_id"]) == ["NORMAL/sub/b.jpg", "Viral Pneumonia/ein Bild ü.png"]
    assert list(cases["label"]) == ["normal", "viral_pneumonia"]
    assert cases["split"].isna().all()
    assert cases["patient_id"].isna().all()
    assert cases.attrs["classes"] == ["normal", "viral_pneumonia"]


def test_folder_with_parts_of_any_spelling(write, tmp_path):
    for part in ("Train", "valid", "TESTING"):
        write(f"archive/{part}/a/{part}.png")
        write(f"archive/{part}/b/{part}.png")
    cases = index_source(f"folder:{tmp_path / 'data'}")
    assert set(zip(cases["split"], cases["label"], strict=True)) == {
        (part, label) for part in ("train", "validation", "test") for label in "ab"
    }


def test_folder_pairs_masks_and_never_trains_on_them(write, tmp_path):
    write("COVID/images/COVID-1.png")
    write("COVID/masks/COVID-1.png")
    write("Normal/images/Normal-1.png")
    write("Normal/masks/Normal-2.png")
    cases = index_source(f"folder:{tmp_path / 'data'}")
    assert list(cases["case_id"]) == ["COVID/images/COVID-1.png", "Normal/images/Normal-1.png"]
    assert cases["mask_path"].iloc[0] == str(tmp_path / "data/COVID/masks/COVID-1.png")
    assert cases["mask_path"].iloc[1] is None


def test_folder_patient_option(write, tmp_path):
    write("a/p12_x.png")
    write("a/other.png")
    write("b/p7_x.png")
    cases = index_source(f"folder:{tmp_path / 'data'},patient=^(p\\d+)")
    assert list(cases["patient_id"]) == [None, "p12", "p7"]


def test_folder_promises_empty_classes(write, tmp_path):
    write("a/1.png")
    (tmp_path / "data/empty").mkdir()
    assert index_source(f"folder:{tmp_path / 'data'}").attrs["classes"] == ["a", "empty"]


def test_folder_follows_links_but_no_loops(write, tmp_path):
    write("a/1.png")
    write("b/1.png")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/c").symlink_to(tmp_path / "data/b")
    assert set(index_source(f"folder:{tmp_path / 'data'}")["label"]) == {"a", "b", "c"}


def test_folder_mistakes(write, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(DataError, match="must hold one folder of images per class, but it has no folders"):
        index_source(f"folder:{data}")
    write("1.png")
    with pytest.raises(DataError, match="but 1 images lie in it directly"):
        index_source(f"folder:{data}")
    (data / "a").mkdir()
    with pytest.raises(DataError, match="has class folders but no image in them"):
        index_source(f"folder:{data}")
    write("train/a/1.png")
    write("covid/1.png")
    with pytest.raises(DataError, match=r"either class folders or part folders.*'covid' beside 'train'"):
        index_source(f"folder:{data}")
    with pytest.raises(DataError, match="must be a regular expression"):
        index_source(f"folder:{data},patient=(")


def test_missing_folder_names_its_sibling(tmp_path):
    (tmp_path / "chest_xray").mkdir()
    with pytest.raises(DataError, match=r"chest_xrai does not exist\. Did you mean 'chest_xray'\?"):
        index_source(f"chest_xray:{tmp_path / 'chest_xrai'}")
    with pytest.raises(DataError, match="needs a folder: write folder:FOLDER"):
        index_source("folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"needs a folder, but .*file is a file"):
        index_source(f"folder:{tmp_path / 'file'}")


def test_table_with_every_column(write, tmp_path):
    write("img/a b.png")
    write("img/ü.png")
    csv = tmp_path / "data/cases.csv"
    csv.write_text(
        "Path,LABEL,patient_id,split,mask,text\n"
        'img/a b.png,Normal,p1,Train,masks/a.png,"clear, no finding"\n\n'
        "img/ü.png,Lung Opacity,,VAL,,\n",
        encoding="utf-8-sig",
    )
    first, second = index_source(f"table:{csv}").to_dict("records")
    assert first == {
        "case_id": "img/a b.png",
        "path": str(tmp_path / "data/img/a b.png"),
        "label": "normal",
        "patient_id": "p1",
        "source": "table",
        "split": "train",
        "mask_path": str(tmp_path / "data/masks/a.png"),
        "text": "clear, no finding",
        "labels": None,
        "table": None,
        **dict.fromkeys(("site", "scanner", "view", "sex", "age")),
    }
    assert second["label"] == "lung_opacity"
    assert second["split"] == "validation"
    assert second["patient_id"] is second["mask_path"] is second["text"] is None


def test_table_with_semicolons(write, tmp_path):
    csv = write("a.png").parent / "cases.csv"
    csv.write_text("path;label\na.png;x\nb.png;y\n")
    assert list(index_source(f"table:{csv}")["label"]) == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\na.png,x\n", "must have a column 'label'.* Rename 'lable' to 'label'"),
        ("", "must begin with a line of column names"),
        ("case,label\n1,x\n", "must have a column 'path', but its columns are case, label"),
        ("path,label\n", "at least one row"),
        ("path,label\na.png,x\nb.png,\n", r"cases\.csv:3: every row must have a label"),
        ("path,label\na.png,x\n./a.png,x\n", r"cases\.csv:3: each image must be listed once, but a\.png is in line 2"),
        ("path,label,split\na.png,x,fold1\n", r"cases\.csv:2: split must be empty or one of train"),
        ("path,label\nc.png,x\nd.png,y\n", r"none of 2 is: there is no .*c\.png, for one\. .* add images=FOLDER"),
    ],
)
def test_table_mistakes(write, tmp_path, text, message):
    csv = write("a.png").parent / "cases.csv"
    csv.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        index_source(f"table:{csv}")


def test_table_must_be_a_file(tmp_path):
    with pytest.raises(DataError, match="needs a file, but"):
        index_source(f"table:{tmp_path}")
    (tmp_path / "cases.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"does not exist\. Did you mean 'cases\.csv'"):
        index_source(f"table:{tmp_path / 'case.csv'}")


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("phantom", ("phantom", None, {})),
        ("phantom,n=30,seed=1", ("phantom", None, {"n": "30", "seed": "1"})),
        ("folder:/a/b", ("folder", Path("/a/b"), {})),
        ("folder:/a, b/c:d,patient=(x)", ("folder", Path("/a, b/c:d"), {"patient": "(x)"})),
        ("table:x y.csv,official=no", ("table", Path("x y.csv"), {"official": "no"})),
        ("folder:~/x", ("folder", Path.home() / "x", {})),
    ],
)
def test_parse_source(spec, parsed):
    assert parse_source(spec) == parsed


def test_parse_source_mistakes():
    with pytest.raises(DataError, match=r"'chest_xry' is not a data source\. Did you mean 'chest_xray'\?"):
        parse_source("chest_xry:x")
    with pytest.raises(DataError, match="'_files' is not a data source"):
        parse_source("_files")
    with pytest.raises(DataError, match="'seed' is given twice"):
        parse_source("phantom,seed=1,seed=2")


def test_options_are_checked(write, tmp_path):
    write("a/1.png")
    with pytest.raises(DataError, match=r"'pateint' is not an option of 'folder'\. Did you mean 'patient'"):
        index_source(f"folder:{tmp_path / 'data'},pateint=x")
    with pytest.raises(DataError, match="official must be one of yes, no, but got 'maybe'"):
        index_source(f"folder:{tmp_path / 'data'},official=maybe")


def test_official_parts_can_be_ignored(write, tmp_path):
    write("train/a/1.png")
    write("test/b/1.png")
    assert index_source(f"folder:{tmp_path / 'data'},official=no")["split"].isna().all()


def test_every_source_has_a_one_line_summary():
    assert {"chest_xray", "folder", "phantom", "table"} <= set(names())
    assert all(text and "\n" not in text for text in summaries().values())


def test_listing_sources_imports_neither_pandas_nor_torch():
    code = (
        "import sys; from lungtune.data.sources import summaries; summaries();"
        "sys.exit(bool({'pandas', 'torch', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_data_layer_never_imports_torch():
    code = (
        "import sys, lungtune.data.dataset, lungtune.data.report; import sklearn.model_selection;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
