"""Splits: no group in two parts, every class in every part, deterministic per seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lungtune.data.cases import table
from lungtune.data.fingerprint import SIDE
from lungtune.data.manifest import PARTS
from lungtune.data.splits import MIN_VALIDATION, draw, make_manifest
from lungtune.errors import DataError


def cases_of(*groups: tuple[str, str | None, str | None, int], restarts: bool = False) -> pd.DataFrame:
    """Build cases from (label, patient, split, how many)."""
    rows = []
    for number, (label, patient, split, count) in enumerate(groups):
        for image in range(count):
            name = f"{split}/{label}/{number:04}_{image}.png"
            rows.append(
                {
                    "case_id": name,
                    "path": f"/data/{name}",
                    "label": label,
                    "patient_id": patient,
                    "source": "test",
                    "split": split,
                }
            )
    return table(rows, restarts=restarts)


def many(label: str, split: str | None, count: int) -> list[tuple[str, str, str | None, int]]:
    return [(label, f"{split}-{label}-{i}", split, 1) for i in range(count)]


def parts_of(manifest) -> dict[str, str]:
    return {case: part for part in PARTS for case in manifest.parts[part].case_id}


@st.composite
def populations(draw_from):
    """Return (label, patient, None, images) with at least 12 patients per class."""
    groups = []
    for label in ("a", "b", "normal")[: draw_from(st.integers(2, 3))]:
        sizes = draw_from(st.lists(st.integers(1, 4), min_size=12, max_size=30))
        groups += [(label, f"{label}{i}", None, size) for i, size in enumerate(sizes)]
    return groups


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(populations(), st.integers(0, 1000), st.integers(2, 5))
def test_properties_of_every_split(make_facts, groups, seed, folds):
    cases = cases_of(*groups)
    facts = make_facts(cases)
    manifest = make_manifest(cases, facts, seed=seed, folds=folds)
    assert parts_of(manifest).keys() == set(cases["case_id"])
    held = [set(manifest.parts[part].group) for part in PARTS]
    assert len(set.union(*held)) == sum(map(len, held))
    assert all(set(manifest.parts[part].label) == set(cases["label"]) for part in PARTS)
    order = np.random.default_rng(seed).permutation(len(cases))
    shuffled = cases.iloc[order].sort_values("case_id", ignore_index=True)
    again = make_manifest(shuffled, facts, seed=seed, folds=folds)
    assert again == manifest
    assert again.hash == manifest.hash
    other = make_manifest(cases, facts, seed=seed + 1, folds=folds)
    assert other.parts["test"] == manifest.parts["test"]
    assert other.hash != manifest.hash


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(populations(), st.integers(0, 50))
def test_folds_cover_everything_once(make_facts, groups, seed):
    cases = cases_of(*groups)
    facts = make_facts(cases)
    seen = [
        case
        for fold in range(4)
        for case in make_manifest(cases, facts, seed=seed, folds=4, fold=fold).parts["validation"].case_id
    ]
    assert len(seen) == len(set(seen))
    assert set(seen) | set(make_manifest(cases, facts).parts["test"].case_id) == set(cases["case_id"])


def test_official_test_part_is_unchanged(make_facts):
    cases = cases_of(*many("a", "train", 40), *many("b", "train", 40), *many("a", "test", 5), *many("b", "test", 5))
    manifest = make_manifest(cases, make_facts(cases))
    assert set(manifest.parts["test"].case_id) == set(cases.loc[cases["split"] == "test", "case_id"])
    assert "test: the official part." in manifest.notes


def test_a_small_official_validation_part_is_merged(make_facts):
    train = [*many("a", "train", 40), *many("b", "train", 40)]
    val = [*many("a", "validation", 8), *many("b", "validation", 8)]
    cases = cases_of(*train, *val, *many("a", "test", 5), *many("b", "test", 5))
    manifest = make_manifest(cases, make_facts(cases))
    official = set(cases.loc[cases["split"] == "validation", "case_id"])
    assert set(manifest.parts["validation"].case_id) != official
    assert official <= set(manifest.parts["train"].case_id) | set(manifest.parts["validation"].case_id)
    assert any("of 16 cases is merged into training: a class has 8 of the 30" in note for note in manifest.notes)


def test_a_large_official_validation_part_is_used(make_facts):
    groups = [g for part in ("train", "validation") for label in "ab" for g in many(label, part, MIN_VALIDATION)]
    cases = cases_of(*groups)
    for seed in (0, 1):
        manifest = make_manifest(cases, make_facts(cases), seed=seed)
        kept = set(manifest.parts["validation"].case_id)
        assert kept == set(cases.loc[cases["split"] == "validation", "case_id"])
        assert len(manifest.parts["test"]) == 12


def test_official_validation_that_shares_patients_is_merged(make_facts):
    groups = [g for part in ("train", "validation", "test") for label in "ab" for g in many(label, part, 40)]
    cases = cases_of(*groups, ("a", "both", "train", 1), ("a", "both", "validation", 1))
    manifest = make_manifest(cases, make_facts(cases))
    assert any("shares 1 patients or pictures with training" in note for note in manifest.notes)
    part = parts_of(manifest)
    assert len({part[case] for case in cases.loc[cases["patient_id"] == "both", "case_id"]}) == 1


def test_duplicates_stay_together(make_facts):
    cases = cases_of(*many("a", None, 40), *many("b", None, 40))
    facts = make_facts(cases)
    for column in ("sha1", "pixels"):
        facts.iloc[[0, 9, 20], facts.columns.get_loc(column)] = "same"
    facts.iat[31, 6] = facts.iat[0, 6]
    for seed in range(6):
        part = parts_of(make_manifest(cases, facts, seed=seed))
        assert len({part[cases["case_id"][row]] for row in (0, 9, 20, 31)}) == 1


def near(facts: pd.DataFrame, first: int, second: int, kind: str) -> None:
    """Set two rows' facts to those of copies or look-alikes: the same picture, less or more fine noise on it."""
    picture = np.frombuffer(facts.iat[first, 6], np.uint8).reshape(SIDE, SIDE).astype(float)
    amplitudes = np.random.default_rng(0).normal(0, {"copy": 12, "look-alike": 52}[kind], (SIDE // 2, SIDE // 2))
    changed = picture + np.kron(amplitudes, [[1, -1], [-1, 1]])
    facts.iat[second, 6] = np.clip(changed, 0, 255).astype(np.uint8).tobytes()


@pytest.mark.parametrize("kind", ["copy", "look-alike"])
def test_training_images_nearly_in_test_are_left_out(make_facts, kind):
    groups = [g for part in ("train", "test") for label in "ab" for g in many(label, part, 30)]
    cases = cases_of(*groups, restarts=True)
    facts = make_facts(cases)
    train = int(np.flatnonzero(cases["split"] == "train")[3])
    test = int(np.flatnonzero(cases["split"] == "test")[3])
    near(facts, test, train, kind)
    manifest = make_manifest(cases, facts)
    assert dict(manifest.excluded) == {cases["case_id"][train]: f"{kind} of the test case {cases['case_id'][test]}"}
    assert cases["case_id"][test] in manifest.parts["test"].case_id


@pytest.mark.parametrize("kind", ["copy", "look-alike"])
@pytest.mark.parametrize("twin_first", [True, False])
def test_exact_duplicates_of_a_near_test_image_are_left_out(make_facts, kind, twin_first):
    groups = [g for part in ("train", "test") for label in "ab" for g in many(label, part, 30)]
    cases = cases_of(*groups, ("a", "mates", "train", 3), restarts=True)
    facts = make_facts(cases)
    mates = np.flatnonzero(cases["patient_id"] == "mates")
    others = np.flatnonzero((cases["split"] == "train") & (cases["patient_id"] != "mates"))
    copied, twin = int(mates[1]), int(others[0] if twin_first else others[-1])
    test = int(np.flatnonzero(cases["split"] == "test")[3])
    near(facts, test, copied, kind)
    facts.iloc[twin] = facts.iloc[copied]
    cases.at[twin, "label"] = cases.at[copied, "label"]
    excluded = dict(make_manifest(cases, facts).excluded)
    ids = cases["case_id"]
    for row in (copied, twin):
        assert excluded.pop(ids[row]) == f"{kind} of the test case {ids[test]}"
    first = ids[min(copied, twin)]
    reason = f"same patient or picture as {first}, a copy of the test case {ids[test]}"
    assert excluded == ({ids[mates[0]]: reason, ids[mates[2]]: reason} if kind == "copy" else {})


def test_a_copy_of_the_duplicate_of_a_test_image_is_left_out(make_facts):
    groups = [g for part in ("train", "test") for label in "ab" for g in many(label, part, 30)]
    cases = cases_of(*groups)
    facts = make_facts(cases)
    train = np.flatnonzero(cases["split"] == "train")
    test = int(np.flatnonzero(cases["split"] == "test")[3])
    near(facts, int(train[0]), int(train[5]), "copy")
    facts.iloc[test] = facts.iloc[int(train[0])]
    cases.at[test, "label"] = cases.at[int(train[0]), "label"]
    excluded = make_manifest(cases, facts).excluded
    assert excluded[cases["case_id"][train[5]]] == f"copy of the test case {cases['case_id'][test]}"


def test_patient_ids_overrule_look_alikes_but_not_copies(make_facts):
    groups = [g for part in ("train", "test") for label in "ab" for g in many(label, part, 30)]
    cases = cases_of(*groups)
    train = int(np.flatnonzero(cases["split"] == "train")[3])
    test = int(np.flatnonzero(cases["split"] == "test")[3])
    facts = make_facts(cases)
    near(facts, test, train, "look-alike")
    assert not make_manifest(cases, facts).excluded
    near(facts, test, train, "copy")
    assert len(make_manifest(cases, facts).excluded) == 1


def test_one_picture_with_two_labels_is_left_out(make_facts):
    cases = cases_of(*many("a", None, 30), *many("b", None, 30))
    facts = make_facts(cases)
    facts.iloc[[0, 45], facts.columns.get_loc("sha1")] = "same"
    manifest = make_manifest(cases, facts)
    assert set(manifest.excluded.values()) == {"the same picture is labelled a and b"}
    assert len(manifest.excluded) == 2


def test_unreadable_images_are_in_no_part(make_facts):
    cases = cases_of(*many("a", None, 30), *many("b", None, 30))
    facts = make_facts(cases)
    facts.iloc[4] = [None] * 10 + ["is empty (0 bytes)"]
    manifest = make_manifest(cases, facts)
    assert dict(manifest.excluded) == {cases["case_id"][4]: "unreadable: is empty (0 bytes)"}


def test_leaks_are_dropped_on_request(make_facts):
    groups = [g for part in ("train", "test") for label in "ab" for g in many(label, part, 30)]
    cases = cases_of(*groups, ("a", "both", "train", 2), ("a", "both", "test", 1))
    assert not make_manifest(cases, make_facts(cases)).excluded
    cases.attrs["leaks"] = "drop"
    excluded = make_manifest(cases, make_facts(cases)).excluded
    assert len(excluded) == 2
    assert all("same patient or picture as the test case" in reason for reason in excluded.values())


def test_too_few_groups_leave_a_part_empty(make_facts):
    cases = cases_of(("a", "p", None, 9), ("b", "q", None, 9))
    manifest = make_manifest(cases, make_facts(cases))
    assert [len(manifest.parts[part]) for part in PARTS] == [18, 0, 0]


def test_draw_repeats_until_every_class_is_in_every_part():
    labels = np.array(list("aaaaaaabbbbbbbaabbbbb"))  # the first shuffle of seed 0 leaves a fold without a class
    groups = np.array(["0", "0", *"112345567888889", *"9999"])
    for fold in range(5):
        assert set(labels[draw(labels, groups, folds=5, fold=fold, seed=0)]) == {"a", "b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [({"folds": 1}, "folds >= 2 must hold, but got 1"), ({"fold": 5}, "0 <= fold < 5 must hold, but got 5")],
)
def test_wrong_folds(make_facts, values, message):
    cases = cases_of(*many("a", None, 5))
    with pytest.raises(DataError, match=message):
        make_manifest(cases, make_facts(cases), **values)


def test_repeated_draw_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))
    labels = np.array(["a", "b"] * 50)
    groups = np.array([f"g{i // 2}" for i in range(100)])
    first = draw(labels, groups, folds=5, fold=1, seed=3)
    (file,) = (tmp_path / "splits").iterdir()
    np.save(file, first[:7])
    assert draw(labels, groups, folds=5, fold=1, seed=3).tolist() == first[:7].tolist()
    assert draw(labels, groups, folds=5, fold=1, seed=4).tolist() != first[:7].tolist()
    file.write_bytes(b"torn")
    assert draw(labels, groups, folds=5, fold=1, seed=3).tolist() == first.tolist()
