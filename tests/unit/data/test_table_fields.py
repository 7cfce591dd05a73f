"""Tables without a label, with several labels and with numbers: read, split, validated, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lungtune.core.fields import IMAGE, LABEL, LABELS, Labels
from lungtune.data import report
from lungtune.data.audit import Audit
from lungtune.data.cases import strata
from lungtune.data.dataset import inspect, load, missing
from lungtune.data.sources import index_source
from lungtune.errors import DataError


@pytest.fixture
def make(write, tmp_path):
    """Write a table of 60 images with the given columns, each a function of the row number; return its source."""

    def make(**columns):
        rows = [",".join(["path", *columns])]
        for i in range(60):
            write(f"{i}.png", i)
            rows.append(",".join([f"{i}.png", *(str(value(i)) for value in columns.values())]))
        (tmp_path / "data/t.csv").write_text("\n".join(rows))
        return f"table:{tmp_path / 'data/t.csv'}"

    return make


def test_table_without_labels_is_split_by_group_alone(make, capsys):
    source = make(patient_id=lambda i: f"p{i // 2}")
    inspection = inspect(source)
    assert inspection.audit.problems == ()
    assert inspection.manifest.classes == ()
    assert inspection.manifest.parts["train"].label[0] is None
    assert inspection.audit.constant == {}
    assert inspection.audit.official == {"none": {"": 60}}
    assert "validation: fold 0 of 5, grouped, seed 0." in inspection.manifest.notes
    data = load(inspection, [IMAGE], 16)
    assert data.classes == ()
    assert not set(data.train.patients) & set(data.validation.patients)
    assert missing(inspection, [LABEL], "resnet") == (
        f"resnet needs a class of each case, but {source} names none. Give class folders, or a table with a column "
        "'label'."
    )
    assert report.check(source) == 0
    assert "Shortcuts" not in capsys.readouterr().out


def test_several_labels_are_the_classes_without_a_label(make, capsys):
    source = make(edema=lambda i: i % 2, nodule=lambda i: int(i % 4 == 0)) + ",labels=edema|nodule"
    inspection = inspect(source)
    assert inspection.audit.problems == ()
    data = load(inspection, [LABELS], 16)
    assert data.classes == ("edema", "nodule")
    counts = inspection.audit.parts["train"]["labels"]["nodule"]
    train = data.train["labels"][:, 1]
    assert counts == {
        "positive": int((train == 1).sum()),
        "negative": int((train == 0).sum()),
        "uncertain": 0,
        "unknown": 0,
    }
    assert Audit.from_dict(json.loads(json.dumps(inspection.audit.to_dict()))) == inspection.audit
    assert report.check(source) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "nodule" in line and "+" in line)
    assert f"{counts['positive']} + {counts['negative']}" in line


def test_split_is_stratified_by_the_rarest_positive(make):
    source = make(often=lambda i: int(i % 5 != 0), seldom=lambda i: int(i % 6 == 0)) + ",labels=often|seldom"
    cases = index_source(source)
    for case, stratum in zip(cases["case_id"], strata(cases), strict=True):
        i = int(case.removesuffix(".png"))
        assert stratum == ("seldom" if i % 6 == 0 else "often" if i % 5 else "")
    parts = inspect(source).audit.parts
    assert [parts[part]["labels"]["seldom"]["positive"] for part in ("train", "validation", "test")] == [6, 2, 2]


def test_label_decides_strata_where_there_is_one(make):
    source = make(label=lambda i: "ab"[i % 2], edema=lambda i: int(i == 3)) + ",labels=edema"
    assert set(strata(index_source(source))) == {"a", "b"}


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1", 1), ("1.0", 1), ("", None), ("-1", 0.5), ("-1.0", 0.5)])
def test_labels_are_zero_one_uncertain_or_unknown(make, text, value):
    cases = index_source(make(edema=lambda i: text) + ",labels=edema")
    assert set(cases["labels"]) == {(value,)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("labels=edema", r"t\.csv:4: edema must be 0, 1, -1 \(uncertain\) or blank \(unknown\), but got '2'\."),
        ("columns=sex", r"t\.csv:3: sex must be a number or blank, but got 'm'; write categories as numbers\."),
        ("columns=age", r"t\.csv:5: age must be a number or blank, but got 'inf'"),
        ("labels=oedema", r"must have the column 'oedema' that labels names, .* Did you mean 'edema'\?"),
        ("labels=edema|", r"labels must name columns, as in labels=a\|b, but got 'edema\|'"),
        ("labels=", r"labels must name columns, as in labels=a\|b, but got ''"),
        ("columns=age|AGE", "columns must name each column once"),
        ("columns=path", "columns must name further columns, but 'path' has a meaning of its own"),
        ("lable=edema", r"'lable' is not an option of 'table'\. Did you mean 'label'"),
    ],
)
def test_mistakes_in_options_name_the_line_or_column(make, options, message):
    source = make(
        edema=lambda i: 2 if i == 2 else 0, sex=lambda i: "m" if i == 1 else 0, age=lambda i: "inf" if i == 3 else 9
    )
    with pytest.raises(DataError, match=message):
        index_source(f"{source},{options}")


def test_contradictory_labels_of_one_picture_are_left_out(make, write):
    source = make(edema=lambda i: i % 2, nodule=lambda i: "" if i == 8 else int(i % 4 == 0)) + ",labels=edema|nodule"
    write("4.png", 7)  # the picture of 7.png, which has another edema
    write("12.png", 8)  # the picture of 8.png, whose nodule is unknown
    excluded = inspect(source).manifest.excluded
    assert set(excluded) == {"4.png", "7.png"}
    assert set(excluded.values()) == {"the same picture is labelled both with and without edema and nodule"}


def test_label_without_positives_is_a_problem(make):
    inspection = inspect(make(edema=lambda i: i % 2, nodule=lambda i: 0) + ",labels=edema|nodule")
    (problem,) = inspection.audit.problems
    assert problem.startswith("Every label must occur in the training part with and without, but nodule has 0 positive")
    assert sum("Some scores will be undefined" in warning for warning in inspection.audit.warnings) == 2


def test_official_validation_needs_every_label(make):
    def split(i):
        return "val" if i >= 25 else "test" if i < 5 else "train"

    good = make(edema=lambda i: i % 2, split=split) + ",labels=edema"
    assert "validation: the official part of 35 cases." in inspect(good).manifest.notes
    one_sided = make(edema=lambda i: i % 2 if i < 25 else 1, split=split) + ",labels=edema"
    assert "a label has no positive or no negative case in it" in " ".join(inspect(one_sided).manifest.notes)
    bare = make(split=lambda i: "val" if i >= 50 else "test" if i < 5 else "train")
    assert "it needs 30 cases" in " ".join(inspect(bare).manifest.notes)


def test_too_few_patients_without_classes_is_a_problem(make):
    problems = inspect(make(patient_id=lambda i: f"p{i % 5}")).audit.problems
    assert problems == (
        "There must be at least as many patients as there are folds (5) outside the test part, but there are 4.",
    )


def test_label_in_some_rows_only_is_refused(make):
    with pytest.raises(DataError, match=r"t\.csv:3: every row must have a label"):
        index_source(make(label=lambda i: "" if i == 1 else "a"))


def test_numbers_of_a_table_are_read(make):
    cases = index_source(make(age=lambda i: "" if i == 0 else i / 2, sex=lambda i: i % 2) + ",columns=sex|age")
    assert cases.attrs["columns"] == ["sex", "age"]
    first = cases.set_index("case_id")["table"]
    assert first["0.png"] == (0.0, None)
    assert first["5.png"] == (1.0, 2.5)
    assert np.isfinite([row[0] for row in first]).all()


def test_labels_loaded_alone_name_the_outputs_beside_classes(make):
    source = make(label=lambda i: "ab"[i % 2], edema=lambda i: i % 2, nodule=lambda i: int(i % 4 == 0))
    inspection = inspect(f"{source},labels=edema|nodule")
    assert load(inspection, [LABELS], 16).classes == Labels(("edema", "nodule"))
    assert load(inspection, [LABEL, LABELS], 16).classes == ("a", "b")
