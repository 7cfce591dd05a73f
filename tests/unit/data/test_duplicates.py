"""Duplicate detection: changed copies are detected, different images are not."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lungtune.commands.data import data as check
from lungtune.data.candidates import candidates
from lungtune.data.duplicates import Union, exact_groups, near_pairs
from lungtune.data.fingerprint import SIDE, _border, fingerprint
from lungtune.data.phantom import generate
from lungtune.data.scan import scan

PATIENTS = 30


def letterbox(image: Image.Image) -> Image.Image:
    wide = Image.new("L", (image.width + 60, image.height + 20))
    wide.paste(image, (30, 10))
    return wide


def crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((round(0.05 * width), round(0.02 * height), round(0.97 * width), round(0.95 * height)))


def marker(image: Image.Image) -> Image.Image:
    marked = image.copy()
    ImageDraw.Draw(marked).text((8, 6), "L 12:45", fill=255, font=ImageFont.load_default(24))
    return marked


def clahe(image: Image.Image) -> Image.Image:
    """Equalise the histograms of 8 x 8 tiles, clipped at 3 times their mean; tables are blended bilinearly."""
    pixels = np.asarray(image)
    tiles = [np.array_split(row, 8, axis=1) for row in np.array_split(pixels, 8)]

    def table(tile: np.ndarray) -> np.ndarray:
        shares = np.bincount(tile.ravel(), minlength=256) / tile.size
        clipped = np.minimum(shares, 3 / 256)
        return np.cumsum(clipped + (1 - clipped.sum()) / 256) * 255

    tables = np.array([[table(tile) for tile in row] for row in tiles])
    places = [np.clip((np.arange(n) + 0.5) * 8 / n - 0.5, 0, 6.999) for n in pixels.shape]
    y, x = np.meshgrid(*places, indexing="ij")
    (row, dy), (column, dx) = ((p.astype(int), p % 1) for p in (y, x))
    mapped = sum(
        (dy if i else 1 - dy) * (dx if j else 1 - dx) * tables[row + i, column + j, pixels]
        for i in (0, 1)
        for j in (0, 1)
    )
    return Image.fromarray(mapped.astype(np.uint8))


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.resize((110, 110), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


CHANGES = {
    "inverted": ImageOps.invert,
    "flipped": ImageOps.mirror,
    "letterboxed": letterbox,
    "cropped": crop,
    "rotated": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "CLAHE": clahe,
    "gamma 0.6": lambda image: image.point(lambda v: int(255 * (v / 255) ** 0.6)),
    "gamma 1.6": lambda image: image.point(lambda v: int(255 * (v / 255) ** 1.6)),
    "JPEG, half size": jpeg,
    "marker": marker,
    "flipped, cropped, marker": lambda image: marker(crop(ImageOps.mirror(image))),
}


def facts_of(images: list[Image.Image]) -> pd.DataFrame:
    """Return what duplicate detection reads of a scan of different files."""
    numbers = [str(number) for number in range(len(images))]
    prints = [fingerprint(image) for image in images]
    columns = {"sha1": numbers, "pixels": numbers, "fingerprint": prints, "error": None}
    return pd.DataFrame(columns, index=numbers, dtype=object).replace({np.nan: None})


@pytest.fixture(scope="module")
def patients() -> list[Image.Image]:
    """One phantom film of each of `PATIENTS` patients, 192 px."""
    films = {film.patient_id: film for film in generate(3 * PATIENTS, seed=0, domain="B", size=192)}
    return [Image.fromarray(film.image) for film in list(films.values())[:PATIENTS]]


def test_different_patients_are_not_linked(patients):
    assert len(patients) == PATIENTS
    assert near_pairs(facts_of(patients)) == []


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_of_phantoms_are_detected(patients, change):
    pairs = near_pairs(facts_of([*patients, *map(CHANGES[change], patients)]))
    copies = {(pair.first, pair.second) for pair in pairs if pair.kind == "copy"}
    right = {(row, row + PATIENTS) for row in range(PATIENTS)}
    assert len(copies & right) >= 0.95 * PATIENTS
    assert copies <= right


@pytest.mark.parametrize(
    ("change", "relation"), [("inverted", ("inverted",)), ("flipped", ("flipped",)), ("rotated", ("rotated",))]
)
def test_relation_of_a_copy_is_named(patients, change, relation):
    (pair,) = near_pairs(facts_of([*patients, CHANGES[change](patients[4])]))
    assert (pair.first, pair.second, pair.kind, pair.relation) == (4, PATIENTS, "copy", relation)


def test_copies_among_many_rows_are_detected(patients, monkeypatch):
    monkeypatch.setattr("lungtune.data.candidates._EXACT", 100)
    coarse = np.random.default_rng(0).integers(0, 256, (1500, 12, 12), np.uint8)
    others = [Image.fromarray(each).resize((96, 96), Image.Resampling.BICUBIC) for each in coarse]
    pairs = near_pairs(facts_of([*patients, *others, *map(marker, patients)]))
    right = {(row, row + PATIENTS + len(others)) for row in range(PATIENTS)}
    assert {(pair.first, pair.second) for pair in pairs} == right


def test_many_copies_of_one_picture_are_joined(patients):
    copies = [patients[3].rotate(angle, Image.Resampling.BICUBIC) for angle in np.linspace(-2, 2, 20)]
    union = Union(PATIENTS + 20)
    for pair in near_pairs(facts_of([*patients, *copies])):
        union.join((pair.first, pair.second))
    assert {union.find(row) for row in range(PATIENTS, PATIENTS + 20)} == {3}
    assert [union.find(row) for row in range(PATIENTS)] == list(range(PATIENTS))


def test_fingerprint_leaves_uniform_borders_out(patients):
    inner = patients[0].crop((20, 20, 170, 170))
    framed = ImageOps.expand(ImageOps.expand(inner, 15, 255), (40, 0), 0)
    first, second = (np.frombuffer(fingerprint(image), np.uint8).astype(int) for image in (inner, framed))
    assert first.shape == (SIDE * SIDE,)
    assert np.corrcoef(first, second)[0, 1] > 0.97


@pytest.mark.parametrize("width", [1, 2, 99, 100])
def test_border_is_lines_near_the_median_of_the_first(width):
    generator = np.random.default_rng(width)
    for _ in range(200):
        level, lines = int(generator.integers(0, 256)), generator.integers(0, 256, (40, width), np.uint8)
        uniform = generator.integers(0, 16)
        lines[:uniform] = np.clip(level + generator.integers(-7, 8, (uniform, width)), 0, 255)
        lines[:uniform, : width // 33] = 255 - level
        near = np.abs(lines[:16] - float(int(np.median(lines[0])))) <= 6
        same = near.mean(axis=1) >= 0.97
        expected = 0 if not same[0] else 16 if same.all() else int(np.argmin(same)) + 2
        assert _border(lines) == expected


def test_check_draws_near_copies_with_their_names(tmp_path, capsys, patients):
    for row, image in enumerate([*patients, *map(ImageOps.mirror, patients)]):
        file = tmp_path / f"data/{'ab'[row % 2]}/{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    source = f"folder:{tmp_path / 'data'}"
    assert check("check", source, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["near"]["copies"], len(found["near"]["pairs"])) == (PATIENTS, PATIENTS)
    with Image.open(found["near_sheet"]) as sheet:
        width, height = sheet.size
    assert (width // 452, height // 300) == (3, 8)  # 24 of 30 pairs, three side by side, names below
    assert check("check", source) == 0
    shown = capsys.readouterr().out
    assert f"The first 24 of 30 pairs of copies and look-alikes are drawn in {found['near_sheet']}" in shown
    assert "30 pairs of copies and 0 of look-alikes (0 pairs across official parts)" in shown


def test_check_without_near_copies_draws_none(tmp_path, capsys):
    for row in range(20):
        file = tmp_path / f"data/{'ab'[row % 2]}/{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(row).integers(0, 256, (64, 64), np.uint8)).save(file)
    assert check("check", f"folder:{tmp_path / 'data'}", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["near_sheet"] is None


def test_exact_groups_join_bytes_and_pixels(write):
    originals = [write(f"{i:02}.png", i, width=120, height=100) for i in range(40)]
    same_bytes, same_pixels = originals[0].with_name("x.png"), originals[0].with_name("y.png")
    same_bytes.write_bytes(originals[3].read_bytes())
    Image.open(originals[3]).save(same_pixels, compress_level=0)
    facts = scan([str(path) for path in [*originals, same_bytes, same_pixels]])
    assert exact_groups(facts) == [[3, 40, 41]]
    assert near_pairs(facts) == []


def test_unreadable_and_constant_pictures_match_nothing(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((20 + i, 20), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(b"")
    facts = scan([str(tmp_path / f"{i}.png") for i in range(5)])
    assert exact_groups(facts) == []
    assert near_pairs(facts) == []


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_pictures_are_compared(patients, count):
    prints = [fingerprint(image) for image in patients[:count]]
    assert candidates(prints).shape[1] == 3
    assert near_pairs(facts_of(patients[:count])) == []


def test_union():
    union = Union(6)
    union.join((4, 2))
    union.join((2, 5))
    union.join((0,))
    assert [union.find(row) for row in range(6)] == [0, 1, 2, 3, 2, 2]
