"""DICOM reader: tags are applied; everything but one gray frame is refused by name."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, features
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from lungtune.core.fields import IMAGE
from lungtune.data import scan as scanning
from lungtune.data.dataset import inspect, load
from lungtune.data.readers import dicom, images
from lungtune.data.readers.images import UnreadableImageError
from lungtune.data.scan import scan
from lungtune.data.sources import index_source

SAMPLES = Path(__file__).resolve().parents[3] / "../shared/data/dicom_samples"


def ramp(bits: int = 12, width: int = 64, height: int = 48) -> np.ndarray:
    """Return uint16 `(height, width)`: 0 at the left, all bits set at the right."""
    return np.tile(np.linspace(0, 2**bits - 1, width).astype(np.uint16), (height, 1))


def written(values: np.ndarray, bits: int = 12, syntax: str = ExplicitVRLittleEndian, **tags: object) -> bytes:
    """Return a DICOM file of `values`, its header changed by `tags`; a tag of None is left out."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.Modality, data.PatientID = "CR", "p1"
    data.Rows, data.Columns, data.SamplesPerPixel = *values.shape[:2], 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * values.dtype.itemsize, bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.astype(values.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    data["PixelData"].VR = "OW"
    for name, value in tags.items():
        if value is None:
            del data[name]
        else:
            setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    data.preamble = bytes(128)
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def encoded(values: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return encapsulate([stream.getvalue()])


def decoded(data: bytes, **options: bool) -> np.ndarray:
    return dicom.decode(data, **options)[0]


@pytest.mark.parametrize("bits", [10, 12, 15, 16])
def test_wide_pixels_are_scaled_as_those_of_a_16_bit_png(bits):
    values = ramp(bits)
    values[0, 0] = 2**bits - 1  # a burned-in marker
    png = io.BytesIO()
    Image.fromarray(values).save(png, "PNG")
    assert np.array_equal(images.letterboxed(written(values, bits), 64), images.letterboxed(png.getvalue(), 64))


@pytest.mark.parametrize("bits", [6, 8])
def test_narrow_pixels_keep_their_range(bits):
    values = (ramp(bits) // 2).astype(np.uint8)
    gray = decoded(written(values, bits))
    assert np.abs(gray - values * (255 / (2**bits - 1))).max() <= 0.51
    slope = written(values, bits, RescaleSlope="32.12", RescaleIntercept="-4047")
    assert np.array_equal(decoded(slope), gray)


@pytest.mark.parametrize(("values", "bits"), [(ramp(), 12), (ramp(8).astype(np.uint8), 8)], ids=["wide", "narrow"])
def test_monochrome1_is_inverted(values, bits):
    plain, inverted = (decoded(written(values, bits, PhotometricInterpretation=f"MONOCHROME{n}")) for n in (2, 1))
    assert np.array_equal(inverted, 255 - plain)
    assert inverted[0, 0] == 255


def test_bits_above_those_stored_are_ignored():
    overlay = ramp(10) | (np.arange(64, dtype=np.uint16) % 2 << 12)
    assert np.array_equal(decoded(written(overlay, 10)), decoded(written(ramp(10), 10)))


def test_rescale_is_applied():
    plain = decoded(written(ramp()))
    assert np.abs(decoded(written(ramp(), RescaleSlope="2", RescaleIntercept="-1024")).astype(int) - plain).max() <= 1
    falling = decoded(written(ramp(), RescaleSlope="-1", RescaleIntercept="4095")).astype(int)
    assert np.abs(falling - (255 - plain)).max() <= 1
    narrow = decoded(written(ramp(8).astype(np.uint8), 8, RescaleSlope="-1", RescaleIntercept="255"))
    assert (narrow[0, 0], narrow[0, -1]) == (255, 0)


def test_signed_pixels():
    values = ramp(12).astype(np.int16) - 2048
    assert np.array_equal(decoded(written(values, 12)), decoded(written(ramp(12))))


@pytest.mark.parametrize("tag", [1, 2])
def test_padding_is_black_and_does_not_count(tag):
    values = ramp(12) // 8 + 100
    values[:, :20] = 4000
    gray = decoded(written(values, 12, PixelPaddingValue=4000, PhotometricInterpretation=f"MONOCHROME{tag}"))
    assert gray[:, :20].max() == 0
    assert {int(gray[:, 20:].min()), int(gray[:, 20:].max())} == {0, 255}


@pytest.mark.parametrize("shape", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_voi_window_only_when_asked_for(shape):
    data = written(ramp(), WindowCenter=["1000", "5"], WindowWidth=["800", "9"], VOILUTFunction=shape)
    assert np.array_equal(decoded(data), decoded(written(ramp())))
    header = pydicom.dcmread(io.BytesIO(data))
    expected = apply_voi_lut(ramp(), header, index=0) / 4095 * 255
    assert np.abs(decoded(data, voi=True) - expected).max() <= 1
    assert np.array_equal(decoded(written(ramp()), voi=True), decoded(written(ramp()))), "a file without a window"


def test_voi_lut():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], list(range(255, -1, -1)) * 16
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    gray = decoded(written(ramp(), VOILUTSequence=[table]), voi=True)
    assert np.array_equal(gray, 255 - ramp() % 256)


def test_voi_reading_is_cached_apart(write, tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(written(ramp(), WindowCenter="1000", WindowWidth="100"))
    png = str(write("a.png", 0))
    for _ in range(2):
        plain, through = scan([str(path), png]), scan([str(path), png], voi=True)
        assert plain["pixels"].iloc[0] != through["pixels"].iloc[0]
        assert plain["sha1"].iloc[0] != through["sha1"].iloc[0]
        assert plain["sha1"].iloc[1] == through["sha1"].iloc[1]


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.keyword,
)
def test_uncompressed(syntax):
    assert np.array_equal(decoded(written(ramp(), syntax=syntax)), decoded(written(ramp())))


def test_rle():
    header = pydicom.dcmread(io.BytesIO(written(ramp())))
    header.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    header.save_as(stream)
    assert np.array_equal(decoded(stream.getvalue()), decoded(written(ramp())))


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow cannot write JPEG 2000")
def test_jpeg_2000():
    data = written(ramp(16), 16, JPEG2000Lossless, PixelData=encoded(ramp(16), "JPEG2000", no_jp2=True))
    assert np.array_equal(decoded(data), decoded(written(ramp(16), 16)))


def test_jpeg_baseline():
    values = ramp(8).astype(np.uint8)
    data = written(values, 8, JPEGBaseline8Bit, PixelData=encoded(values, "JPEG", quality=100))
    assert np.abs(decoded(data).astype(int) - values).max() <= 2


def test_facts_name_type_mode_and_view(tmp_path):
    (tmp_path / "a").write_bytes(written(ramp(10), 10, ViewPosition="AP", PhotometricInterpretation="MONOCHROME1"))
    facts = scanning.facts(str(tmp_path / "a"))
    assert (facts.type, facts.mode) == ("DICOM", "MONOCHROME1, 10 bit, AP")
    assert (facts.width, facts.height) == (64, 48)


RGB = np.zeros((48, 64, 3), np.uint8)
REFUSED = {
    "colour": (written(RGB, 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0), "colour"),
    "palette": (written(ramp(), PhotometricInterpretation="PALETTE COLOR"), "in colour .PALETTE COLOR"),
    "frames": (written(np.zeros((96, 64), np.uint16), NumberOfFrames=2, Rows=48), "2 frames, but an X-ray must have"),
    "no pixels": (written(ramp(), PixelData=None), "is a DICOM file without pixels .CR"),
    "short": (written(ramp(), PixelData=ramp().tobytes()[:-100]), "truncated: it has 6,044 of 6,144 bytes"),
    "cut": (written(ramp())[:-100], "truncated: it has 6,044 of 6,144 bytes"),
    "cut header": (written(ramp())[:420], "without pixels|is truncated"),
    "magic alone": (bytes(128) + b"DICM", "is truncated: it ends inside its header"),
    "cut jpeg": (
        written(ramp(), 8, JPEGBaseline8Bit, BitsAllocated=8, PixelData=encapsulate([b"\xff\xd8" * 99]))[:-40],
        "is truncated: it ends inside its header or its compressed pixels",
    ),
    "no size": (written(ramp(), Rows=None), "is damaged: 64 x 0 pixels"),
    "huge": (written(ramp(), Rows=60000, Columns=60000), "has more than 89,478,485 pixels"),
    "codec": (written(ramp(), 12, HTJ2KLossless, PixelData=encapsulate([b"1234"])), "no codec here|damaged"),
    "torn jpeg": (
        written(ramp(), 8, JPEGBaseline8Bit, BitsAllocated=8, PixelData=encapsulate([b"\xff\xd8\xff\xe0" * 9])),
        "is damaged",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    data, why = REFUSED[name]
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(UnreadableImageError, match=why), images.decoders():
        scanning.facts(str(tmp_path / "a.dcm"))


def test_a_png_with_the_magic_inside_stays_a_png(write):
    path = write("a.png", 0)
    data = bytearray(path.read_bytes())
    data[128:132] = b"DICM"
    assert not dicom.recognises(bytes(data))


def test_header_patient(tmp_path):
    files = {"a.dcm": written(ramp()), "b": written(ramp(), PatientID="x y"), "c.dcm": written(ramp(), PatientID="")}
    for name, data in {**files, "d.dcm": b"no", "e.dcm": written(ramp())[:300]}.items():
        (tmp_path / name).write_bytes(data)
    assert [dicom.patient_id(str(tmp_path / n)) for n in ("a.dcm", "b", "c.dcm", "d.dcm", "z.dcm")] == [
        "p1",
        "x y",
        *(None,) * 3,
    ]
    dicom.patient_id(str(tmp_path / "e.dcm"))


def test_a_data_set_of_dicom_keeps_how_it_is_read(tmp_path):
    for i in range(60):
        values = np.random.default_rng(i).integers(0, 4096, (4, 4), dtype=np.uint16).repeat(16, 0).repeat(16, 1)
        path = tmp_path / f"data/{'ab'[i % 2]}/{i}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written(values, PatientID=str(i), WindowCenter="2000", WindowWidth="3000"))
    plain, through = inspect(f"folder:{tmp_path / 'data'}"), inspect(f"folder:{tmp_path / 'data'},voi=yes")
    assert plain.audit.patients == 60
    assert plain.manifest.hash != through.manifest.hash
    for result, voi in ((plain, False), (through, True)):
        result.save(tmp_path / "split.json")
        part = load(tmp_path / "split.json", [IMAGE], 32).train
        data = (tmp_path / "data" / part.case_ids[0]).read_bytes()
        assert np.array_equal(part["image"][0, 0], images.letterboxed(data, 32, voi=voi))


def test_sources_find_dicom_and_its_patients(tmp_path):
    for label in ("a", "b"):
        for name, patient in (("1.dcm", "p1"), ("2.DICOM", "p2"), ("3", "p3")):
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / label / name).write_bytes(written(ramp(), PatientID=patient + label))
    cases = index_source(f"folder:{tmp_path}")
    assert dict(zip(cases["case_id"], cases["patient_id"], strict=True)) == {
        "a/1.dcm": "p1a",
        "a/2.DICOM": "p2a",
        "a/3": "p3a",
        "b/1.dcm": "p1b",
        "b/2.DICOM": "p2b",
        "b/3": "p3b",
    }
    (tmp_path / "t.csv").write_text("path,label\na/3,a\nb/3,b\n")
    assert list(index_source(f"table:{tmp_path / 't.csv'}")["patient_id"]) == ["p3a", "p3b"]
    (tmp_path / "t.csv").write_text("path,label,patient_id\na/3,a,me\nb/3,b,\n")
    assert list(index_source(f"table:{tmp_path / 't.csv'}")["patient_id"]) == ["me", None]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the DICOM samples are not here")
def test_every_sample_is_read_or_named_with_its_reason():
    with (SAMPLES / "manifest.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    facts = scan([str(SAMPLES / row["file"]) for row in rows])
    reasons = ("without pixels", "frames, but", "in colour (RGB)", "truncated: it has", "is no DICOM file")
    refused = 0
    for row, (error, width, height) in zip(rows, zip(facts["error"], facts["width"], facts["height"]), strict=True):
        readable = row["frames"] in ("", "1") and row["photometric"].startswith("MONO")
        hopeless = row["pixel_decode"].startswith("FAIL") and "NotImplementedError" not in row["pixel_decode"]
        if readable and not hopeless:
            assert error is None, row["file"]
            assert (width, height) == (int(row["cols"]), int(row["rows"]))
        else:
            refused += 1
            assert any(reason in error for reason in reasons), (row["file"], error)
    assert (len(rows), refused) == (42, 12)
    slices = facts[[row["file"].startswith("ct_syntaxes/") for row in rows]]
    lossless = slices[["Lossy" not in name and "4.91" not in name for name in slices.index]]
    assert len(set(lossless["pixels"][lossless["mode"] == "MONOCHROME2, 16 bit"])) == 1, "one slice, many syntaxes"
    assert len(set(slices["pixels"][slices["mode"] == "MONOCHROME2, 12 bit"])) == 1


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the DICOM samples are not here")
def test_wrong_tag_is_trusted():
    """One sample declares MONOCHROME1 for pixels stored as MONOCHROME2, which can't be detected from the file."""
    names = ("1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", "Fake_MONOHR1.dcm")
    true, lies = (decoded((SAMPLES / "cxr" / name).read_bytes()) for name in names)
    assert np.array_equal(lies, 255 - true)


def test_metadata_of_headers_are_read_once_and_kept(tmp_path, monkeypatch):
    from lungtune.data import metadata

    tags = {"InstitutionName": "Ulm", "Manufacturer": "GE", "ManufacturerModelName": "X1", "ViewPosition": "PA"}
    for name, label in (("a", "x"), ("b", "y")):
        (tmp_path / label).mkdir()
        data = written(ramp(), PatientSex="F", PatientAge="045Y", **tags)
        (tmp_path / label / f"{name}.dcm").write_bytes(data)
    first = index_source(f"folder:{tmp_path}")
    columns = list(metadata.NAMES)
    assert [tuple(row) for row in first[columns].to_numpy()] == [("Ulm", "GE X1", "PA", "female", 45.0)] * 2
    monkeypatch.setattr(dicom, "tags", lambda path: pytest.fail(f"{path} is read again"))
    monkeypatch.setattr(dicom, "patient_id", lambda path: None)
    assert index_source(f"folder:{tmp_path}")[columns].equals(first[columns])
