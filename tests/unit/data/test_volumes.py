"""Volumes: .npy files to cubes, masks, facts, refusals."""

from __future__ import annotations

import io

import numpy as np
import pytest

from lungtune.core.fields import IMAGE, LABEL, MASK, VOLUME, Field
from lungtune.data import readers
from lungtune.data.dataset import inspect, load, missing
from lungtune.data.readers import volumes
from lungtune.data.readers.base import UnreadableImageError
from lungtune.data.scan import facts, scan
from lungtune.errors import DataError


def encoded(values: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def blob(seed: int, depth: int = 6, height: int = 8, width: int = 10) -> np.ndarray:
    """Return int16 `(depth, height, width)`, another seed another volume."""
    return np.random.default_rng(seed).integers(-1000, 1000, (depth, height, width)).astype(np.int16)


@pytest.fixture
def source(tmp_path):
    """60 volumes in two classes, most with masks."""
    lines = ["path,label,mask"]
    (tmp_path / "data").mkdir()
    for i in range(60):
        np.save(tmp_path / f"data/{i}.npy", blob(i))
        inside = np.zeros((6, 8, 10), bool)
        inside[: 1 + i % 5] = True
        np.save(tmp_path / f"data/{i}-mask.npy", inside)
        lines.append(f"{i}.npy,{'ab'[i % 2]},{f'{i}-mask.npy' if i % 3 else ''}")
    (tmp_path / "data/t.csv").write_text("\n".join(lines))
    return f"table:{tmp_path / 'data/t.csv'}"


def test_volumes_load_with_masks_and_labels(source, tmp_path):
    inspection = inspect(source)
    assert inspection.audit.problems == ()
    assert (inspection.manifest.kind, inspection.manifest.channels) == ("volume", 1)
    assert inspection.audit.masks == 40
    inspection.save(tmp_path / "split.json")
    data = load(tmp_path / "split.json", [VOLUME, MASK, LABEL], 20)
    part = data.train
    assert part["volume"].shape == part["mask"].shape == (len(part), 1, 20, 20, 20)
    assert isinstance(part["volume"], np.memmap)
    assert not part["volume"].flags.writeable
    for row, case in enumerate(part.case_ids):
        i = int(case.removesuffix(".npy"))
        file = tmp_path / "data" / case
        assert np.array_equal(part["volume"][row], volumes.cube(file.read_bytes(), 20))
        assert part.has("mask")[row] == bool(i % 3)
        inside = part["mask"][row, 0]
        assert set(np.unique(inside)) <= {0, 255}
        assert (inside[4:16, 2:18].any((1, 2)).sum() == 2 * (1 + i % 5)) == bool(i % 3)
        assert inside[:4].max() == inside[16:].max() == inside[:, :2].max() == 0


def test_volumes_are_decoded_once(source, monkeypatch):
    inspection = inspect(source)
    first = load(inspection, [VOLUME], 8).train["volume"]
    monkeypatch.setattr("lungtune.data.store.cube", None)
    assert np.array_equal(load(inspection, [VOLUME], 8).train["volume"], first)
    load(inspect(source, fold=1), [VOLUME], 8)


def test_changed_volume_is_reported(source, tmp_path):
    inspection = inspect(source)
    for i in range(60):
        np.save(tmp_path / f"data/{i}.npy", blob(i + 1))
    with pytest.raises(DataError, match=r"The volume .*\.npy must be the one that was scanned"):
        load(inspection, [VOLUME], 8)


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 8, 4), (9, 3, 7), (1, 1, 1), (1, 30, 2)])
def test_cube_keeps_aspect_and_centres(shape):
    full = volumes.cube(encoded(np.full(shape, 200, np.uint8)), 12)
    assert full.shape == (1, 12, 12, 12)
    assert set(np.unique(full)) <= {0, 200}
    for axis, side in enumerate(shape):
        others = tuple({0, 1, 2} - {axis})
        taken = np.flatnonzero(full[0].max(others))
        assert len(taken) == max(1, round(12 * side / max(shape)))
        assert abs(taken[0] - (11 - taken[-1])) <= 1


def test_cube_of_its_own_size_is_unchanged():
    values = np.random.default_rng(0).integers(0, 256, (12, 12, 12), dtype=np.uint8)
    assert np.array_equal(volumes.cube(encoded(values), 12)[0], values)
    assert np.array_equal(volumes.cube(encoded(np.asfortranarray(values)), 12)[0], values)


def test_reduction_is_antialiased():
    checks = (np.indices((32, 32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    small = volumes.cube(encoded(checks), 8)
    assert np.abs(small.astype(int) - 127).max() < 12


def test_enlarged_volume_is_interpolated():
    ramp = np.broadcast_to(np.arange(0, 250, 50, dtype=np.uint8), (5, 5, 5))
    large = volumes.cube(encoded(ramp), 20)[0, 10, 10].astype(int)
    assert (np.diff(large) >= 0).all()
    assert (large[0], large[-1]) == (0, 200)


@pytest.mark.parametrize("kind", ["int16", "uint16", "int32", "float32", "float64", "float16"])
def test_other_types_are_scaled_by_percentiles(kind):
    values = np.linspace(0, 1000, 16**3).reshape(16, 16, 16).astype(kind)
    values[0, 0, 0] = 30_000  # a metal artefact
    full = volumes.cube(encoded(values), 16)[0]
    assert (full.min(), full.max()) == (0, 255)
    assert abs(int(full[8].mean()) - 135) < 6


def test_truth_values_become_black_and_white():
    values = np.zeros((4, 4, 4), bool)
    values[1] = True
    assert np.array_equal(volumes.cube(encoded(values), 4)[0] == 255, values)


def test_channels_are_scaled_apart(tmp_path):
    values = np.stack([blob(0), blob(1) // 100]).astype(np.float32)
    full = volumes.cube(encoded(values), 10, channels=2)
    assert full.shape == (2, 10, 10, 10)
    assert full[0].max() == full[1].max() == 255
    with pytest.raises(UnreadableImageError, match="must have 1 channel, but has 2"):
        volumes.cube(encoded(values), 10)


def test_channels_must_equal_the_requested_number(source, tmp_path):
    for i in range(60):
        np.save(tmp_path / f"data/{i}.npy", np.stack([blob(i), blob(i + 100)]))
    inspection = inspect(source)
    assert inspection.manifest.channels == 2
    message = missing(inspection, [VOLUME], "unet3d")
    assert message.startswith(
        f"unet3d needs volumes of 1 channel, but those of {inspection.source} have 2. Write .npy files"
    )
    assert load(inspection, [Field("volume", "volume", 2)], 8).train["volume"].shape[1:] == (2, 8, 8, 8)


def test_images_are_missing_where_there_are_volumes(source):
    message = missing(inspect(source), [IMAGE], "resnet")
    assert "needs images, but table:" in message
    assert "holds volumes. Give PNG, JPEG or DICOM images" in message


def test_mixed_kinds_are_a_problem(source, tmp_path, write):
    file = tmp_path / "data/t.csv"
    write("7.png", 7)
    file.write_text(file.read_text().replace("\n7.npy,b,7-mask.npy", "\n7.png,b,"))
    assert inspect(source).audit.problems == ("All cases must be volumes, as most are, but 1 of 60 is not: 7.png.",)


def test_mixed_channels_are_a_problem(source, tmp_path):
    np.save(tmp_path / "data/7.npy", np.stack([blob(7)] * 3))
    (problem,) = inspect(source).audit.problems
    assert problem == "All volumes must have 1 channel, as most have, but 1 have not: 7.npy has 3."


def test_mask_of_another_shape_is_a_problem(source, tmp_path, write):
    np.save(tmp_path / "data/7-mask.npy", np.ones((6, 8, 4)))
    np.save(tmp_path / "data/8-mask.npy", np.ones((12, 16, 20)))
    (problem,) = inspect(source).audit.problems
    assert problem == (
        "A mask must have its image's aspect ratio, but 1 of 40 have another: "
        "7.npy has 10 x 8 x 6 voxels, its mask 4 x 8 x 6."
    )


def test_image_as_mask_of_a_volume_is_a_problem(source, tmp_path, write):
    write("7.png", 7)
    file = tmp_path / "data/t.csv"
    file.write_text(file.read_text().replace("7-mask.npy", "7.png", 1))
    assert "7.npy is a volume, its mask an image" in " ".join(inspect(source).audit.problems)


def test_mask_with_channels_is_refused():
    with pytest.raises(UnreadableImageError, match="must have one channel to be a mask, but has 2"):
        volumes.cube_mask(encoded(np.ones((2, 4, 4, 4))), encoded(blob(0)), 8)


def test_facts_of_a_volume_come_from_the_cache_too(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.stack([blob(3), blob(4)]))
    first = scan([str(tmp_path / "a.npy")])
    row = first.iloc[0]
    assert (row["width"], row["height"], row["depth"], row["channels"]) == (10, 8, 6, 2)
    assert (row["kind"], row["type"], row["mode"]) == ("volume", "NPY", "int16")
    monkeypatch.setattr("lungtune.data.scan.facts", None)
    assert scan([str(tmp_path / "a.npy")]).equals(first)


def test_copies_are_detected_by_the_middle_slice(tmp_path):
    values = blob(3)
    np.save(tmp_path / "a.npy", values)
    values[0] = 0
    np.save(tmp_path / "b.npy", values)
    one, other = facts(str(tmp_path / "a.npy")), facts(str(tmp_path / "b.npy"))
    assert one.pixels != other.pixels
    slices = [np.frombuffer(each.fingerprint, np.uint8).astype(int) for each in (one, other)]
    assert np.corrcoef(slices)[0, 1] > 0.999


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(np.array([[[{}]]]), allow_pickle=True), "holds pickled Python objects, which are not read"),
        (encoded(np.zeros((4, 4))), r"must have the axes \(depth, height, width\) or .* but has shape \(4, 4\)"),
        (encoded(np.zeros((1, 1, 4, 4, 4))), r"but has shape \(1, 1, 4, 4, 4\)"),
        (encoded(np.zeros((0, 4, 4))), r"holds no voxels: its shape is \(0, 4, 4\)"),
        (encoded(np.full((2, 2, 2), np.nan)), "must hold finite numbers, but 8 voxels are NaN or infinite"),
        (encoded(np.full((2, 2, 2), np.inf)), "must hold finite numbers, but 8 voxels"),
        (encoded(np.zeros((2, 2, 2), complex)), "must hold real numbers, but holds complex128"),
        (encoded(np.zeros((2, 2, 2), "U3")), "must hold real numbers, but holds <U3"),
        (encoded(np.zeros((4, 4, 4)))[:200], "is truncated: it has 72 of 512 bytes of voxels"),
        (encoded(np.zeros((4, 4, 4)))[:40], "is damaged: "),
        (encoded(np.zeros((4, 4, 4))).replace(b"(4, 4, 4)", b"(-4,-4,4)"), r"its shape is \(-4, -4, 4\)"),
        (encoded(np.zeros((4, 4, 4))).replace(b"(4, 4, 4), }", b"(9999,9999,99)}"), "has more than 1,073,741,824"),
        (b"hello", r"is no \.npy file, though its name says so"),
        (b"", "is empty"),
    ],
)
def test_damaged_or_odd_file_is_one_sentence(tmp_path, data, message):
    file = tmp_path / "x.npy"
    file.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=message):
        facts(str(file))
    assert scan([str(file)])["error"].iloc[0]


def test_flipped_bytes_never_raise_anything_else(tmp_path):
    whole, rng = encoded(blob(0)), np.random.default_rng(0)
    file = tmp_path / "x.npy"
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(128)] = rng.integers(256)
        file.write_bytes(data)
        error = scan([str(file)])["error"].iloc[0]
        assert error is None or "\n" not in error


def test_unreadable_volume_stops_a_search(source, tmp_path):
    (tmp_path / "data/7.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"1 of 60 are not: .*7\.npy is damaged"):
        load(inspect(source), [VOLUME], 8)


def test_volumes_in_class_folders_are_indexed(tmp_path):
    for i in range(40):
        file = tmp_path / f"data/{'ab'[i % 2]}/{i}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, blob(i))
    assert inspect(f"folder:{tmp_path / 'data'}").manifest.kind == "volume"


READER = """
import numpy as np
from lungtune.data.readers.base import Voxels

KIND = "volume"
SUFFIXES = frozenset({".thick.raw"})

def recognises(data):
    return data.startswith(b"RAW!")

def extent(data):
    return 4.0, 4.0, 8.0  # mm: slices are twice as thick as pixels are wide

def open_volume(data):
    return Voxels(np.frombuffer(data, np.uint8, 64, 4).reshape(1, 4, 4, 4), "uint8", "RAW")
"""


def test_new_format_is_one_new_file(source, tmp_path, monkeypatch):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/thick.py").write_text(READER)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "more")])
    readers.all_readers.cache_clear()
    try:
        for i in range(60):
            (tmp_path / f"data/{i}.npy").write_bytes(b"RAW!" + bytes([100 + i] * 64))
        table = tmp_path / "data/t.csv"
        table.write_text("\n".join(line.rpartition(",")[0] for line in table.read_text().splitlines()))  # no masks
        part = load(inspect(source), [VOLUME], 8).train
        assert readers.find(b"", "a.thick.raw").__name__.endswith("thick")
        assert (part["volume"][0, 0].any((1, 2)).sum(), part["volume"][0, 0].any((0, 1)).sum()) == (8, 4)
    finally:
        readers.all_readers.cache_clear()


def test_reader_is_selected_by_content_then_suffix():
    assert readers.find(encoded(blob(0)), "a.png").KIND == "volume"
    assert readers.find(b"\x89PNG", "a.npy").KIND == "image"
    assert readers.find(b"hello", "a.npy").KIND == "volume"
    assert readers.find(b"hello", "a.txt").__name__.endswith("pictures")
    assert {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".npy"} == readers.suffixes()
