"""Generated tables, each with its oracle: the right reading, or one sentence."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import random
from dataclasses import dataclass, field
from pathlib import Path

import openpyxl
import pytest
from PIL import Image

from lungtune.data.sources import index_source
from lungtune.errors import DataError

IMAGES = [f"{part}/{name}.png" for part in ("Train", "val", "test") for name in ("a 1", "b", "Größe", "d.x", "e", "f")]
CLASSES = [
    {"Normal": "normal", "Pneumonia": "pneumonia"},
    {"COVID-19": "covid_19", "covid 19": "covid_19", "No Finding": "no_finding"},
    {"TB-": "tb-", "TB": "tb", "TB+": "tb+"},
    {"0": "0", "1": "1", "2": "2"},
    {"Entzündung": "entzündung", "o. B.": "o._b.", "unklar, fraglich": "unklar,_fraglich"},
    {"0.0": "0.0", "1.0": "1.0"},
]
PARTS = [
    {"train": "train", "val": "validation", "test": "test"},
    {"Training": "train", "VALIDATE": "validation", "Testing": "test", "": None},
    {"training set": "train", "dev": "validation", "test_set": "test"},
]
NAMES = {
    "path": ["path", "Path", "filename", "Image Index", "image_path", "FILE"],
    "label": ["label", "LABEL", "Class", "diagnosis", "finding", "target"],
    "patient": ["patient_id", "PatientID", "Patient ID", "subject_id", "patientid", "Patient"],
    "split": ["split", "Dataset", "subset", "partition", "data_split"],
    "site": ["site", "Hospital", "institution"],
}
NOBODY = ["nan", "unknown", "N/A", "-", "anonymous", ""]


@dataclass
class Made:
    """A table: its header and rows, the right reading by case, and the sentence of a broken one."""

    header: list[str]
    rows: list[list[str]]
    right: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    wrong: str = ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all images."""
    root = tmp_path_factory.mktemp("fuzz")
    for name in IMAGES:
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(root / name)
    return root


def _made(rng: random.Random) -> Made:
    """Return a sound table."""
    columns = ["path", *rng.sample(["label", "patient", "split", "site"], rng.randint(1, 4))]
    classes, parts = rng.choice(CLASSES), rng.choice(PARTS)
    windows = rng.random() < 0.3
    header = [rng.choice(NAMES[column]) for column in columns]
    made = Made([*header, "remark"], [])
    for name in rng.sample(IMAGES, rng.randint(6, len(IMAGES))):
        label, part = rng.choice(list(classes)), rng.choice(list(parts))
        patient = rng.choice(NOBODY) if rng.random() < 0.2 else f"p{rng.randint(0, 6):03}"
        written = {"path": name.replace("/", "\\") if windows else name, "label": label, "split": part}
        written |= {"patient": patient, "site": rng.choice(["Köln", "Ulm"])}
        made.rows.append(
            [written[column] for column in columns] + [rng.choice(["", "a;b,c|d", "früher\tok", '5" tube'])]
        )
        right = {"label": classes[label], "patient": None if patient in NOBODY else patient}
        right |= {"split": parts[part], "site": written["site"]}
        made.right[name] = tuple(right[c] if c in columns else None for c in ("label", "patient", "split", "site"))
    place = rng.randrange(len(made.header))
    for row in [made.header, *made.rows]:
        row.insert(place, row.pop())
    return made


def _broken(made: Made, rng: random.Random) -> None:
    """Break one thing, if the table has it."""
    row = rng.choice(made.rows)
    held = {meaning: [k for k, name in enumerate(made.header) if name in NAMES[meaning]] for meaning in NAMES}
    kind = rng.choice(["extra", "twice", "gone", "header", "case", "label", "uncertain", "part", "spelling", "several"])
    label, path = (held["label"] or [None])[0], held["path"][0]
    if kind == "extra":
        row.extend(["x", "y"])
        made.wrong = r":\d+: every row must have at most \d values"
    elif kind == "twice":
        made.rows.append(list(row))
        made.wrong = r":\d+: each image must be listed once"
    elif kind == "gone":
        for each in made.rows:
            each[path] = f"elsewhere/{each[path]}x"
        made.wrong = "none of .* is: there is no"
    elif kind == "header":
        made.header[path] = "remark 2"
        made.wrong = "must have a column 'path'"
    elif kind == "case":
        for each, value in zip([made.header, *made.rows], ["REMARK", *"abc" * 9], strict=False):
            each.append(value)
        made.wrong = "'remark' and 'REMARK' differ in case only"
    elif kind == "part" and held["split"] and made.header[held["split"][0]] == "split":
        row[held["split"][0]] = "fold 3"
        made.wrong = r":\d+: split must be empty or one of train, .*'fold 3'"
    elif label is None:
        return
    elif kind == "label":
        row[label] = rng.choice(["", "NaN"])
        made.wrong = r":\d+: every row must have a label"
    elif kind == "uncertain":
        row[label] = rng.choice(["-1", "-1.0"])
        made.wrong = r":\d+: .* stands for an uncertain finding"
    elif kind == "spelling":
        made.rows[0][label], made.rows[1][label] = "7", "7.0"
        made.wrong = "spell each class in one way, but has '7' and '7.0'"
    elif kind == "several":
        row[label] = "Mass|Nodule"
        made.wrong = r":\d+: .* names several"


def _written(made: Made, rng: random.Random, folder: Path) -> Path:
    """Write the table in some format."""
    if rng.random() < 0.15:
        book = openpyxl.Workbook()
        for row in [made.header, *made.rows]:
            book.active.append(row)
        book.save(folder / "t.xlsx")
        return folder / "t.xlsx"
    text = io.StringIO(newline="")
    separator, end = rng.choice(",;|\t"), rng.choice(["\n", "\r\n"])
    text.write(rng.choice(["", "", "# exported 2020-01-01, by x" + end, end]))
    writer = csv.writer(
        text, delimiter=separator, lineterminator=end, quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    )
    writer.writerows([made.header, *made.rows])
    data = text.getvalue().encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"]))
    path = folder / rng.choice(["t.csv", "t.tsv", "t.txt"])
    path.write_bytes(gzip.compress(data) if rng.random() < 0.1 else data)
    return path


@pytest.mark.parametrize("block", range(4))
def test_generated_tables_are_read_right_or_refused(folder, block):
    for seed in range(30 * block, 30 * block + 30):
        rng = random.Random(seed)
        made = _made(rng)
        if rng.random() < 0.4:
            _broken(made, rng)
        source = f"table:{_written(made, rng, folder)}"
        if made.wrong:
            with pytest.raises(DataError, match=made.wrong):
                index_source(source)
            continue
        cases = index_source(source)
        values = zip(cases["label"], cases["patient_id"], cases["split"], cases["site"], strict=True)
        assert dict(zip(cases["case_id"], values, strict=True)) == made.right, seed
        assert all(Path(path).is_file() for path in cases["path"]), seed
        assert cases.attrs["inventory"].unused == ["remark"] * any(
            row[made.header.index("remark")] for row in made.rows
        )


@pytest.mark.parametrize("block", range(2))
def test_damaged_bytes_of_a_table_never_raise_anything_else(folder, block):
    for seed in range(20 * block, 20 * block + 20):
        rng = random.Random(1000 + seed)
        path = _written(_made(rng), rng, folder)
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.5:
            data = data[: rng.randrange(len(data))]
        path.write_bytes(data)
        with contextlib.suppress(DataError):  # any other exception fails
            assert len(index_source(f"table:{path}"))
