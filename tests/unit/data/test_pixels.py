"""Odd but valid image files are decoded as their formats say, or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from lungtune.data.readers import dicom, images, levels
from lungtune.data.readers.images import UnreadableImageError
from lungtune.data.scan import scan
from lungtune.data.store import open_images
from lungtune.errors import DataError
from tests.unit.data.test_dicom import encoded, written

SIDE = 64


def scene(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return float64 `(side, side)` in 0..1: smooth blobs with noise that fill the range."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.random((6, 6), dtype=np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    values = np.asarray(coarse, np.float64) + 0.02 * rng.standard_normal((side, side))
    return np.clip((values - values.min()) / np.ptp(values), 0, 1)


def png(values: np.ndarray, key: int | None = None) -> bytes:
    """Return a 16-bit PNG of uint16 `(H, W, channels)`, with a transparent grey level if not None."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    transparency = b"" if key is None else chunk(b"tRNS", struct.pack(">H", key))
    chunks = chunk(b"IHDR", head) + transparency + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg(gray: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def cut(data: bytes, share: float) -> bytes:
    """Return the first part of a JPEG stream, closed with an end marker."""
    return data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9"


def right(data: bytes, truth: np.ndarray, counted: np.ndarray | None = None) -> None:
    """Check that a file is decoded to the truth: neither inverted nor washed out, where pixels are counted."""
    gray = images.letterboxed(data, truth.shape[0]).astype(float)
    seen = np.ones(truth.shape, bool) if counted is None else counted
    assert np.corrcoef(gray[seen], truth[seen])[0, 1] >= 0.98
    assert gray[seen].std() / 255 >= 0.5 * truth[seen].std()


TWELVE = (scene() * 4095).astype(np.uint16)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour_with_12_bits_is_not_dark(channels):
    colour = np.repeat(TWELVE[..., None], channels, 2)
    if channels != 3:
        colour[..., -1] = 65535
    right(png(colour), scene())
    gray = images.letterboxed(png(TWELVE[..., None]), SIDE).astype(int)
    assert np.abs(images.letterboxed(png(colour), SIDE) - gray).max() <= 1
    rgb = images.letterboxed(png(colour), SIDE, channels=3).astype(int)
    assert np.abs(rgb - gray).max() <= 1


def test_16_bit_colours_keep_their_ratios():
    colour = np.stack([TWELVE, TWELVE // 2, TWELVE // 4], -1)
    red, green, blue = (images.letterboxed(png(colour), SIDE, channels=3)[k].astype(float) for k in range(3))
    inner = (red > 40) & (red < 250)
    assert np.abs(green[inner] / red[inner] - 0.5).mean() < 0.1
    assert np.abs(blue[inner] / red[inner] - 0.25).mean() < 0.1


def test_transparent_16_bit_pixels_are_black_and_do_not_count():
    colour = np.stack([TWELVE, np.full_like(TWELVE, 65535)], -1)
    colour[:, :20] = (60000, 0)
    shown = np.ones((SIDE, SIDE), bool)
    shown[:, :20] = False
    right(png(colour), scene(), shown)
    assert images.letterboxed(png(colour), SIDE)[~shown].max() == 0
    keyed = TWELVE[..., None].copy()
    keyed[:, :20] = 60000
    right(png(keyed, key=60000), scene(), shown)


@pytest.mark.parametrize("wide", [False, True])
def test_alpha_of_0_everywhere_is_left_out_and_named(wide):
    gray = TWELVE if wide else (scene() * 255).astype(np.uint8)
    both = np.stack([gray, np.zeros_like(gray)], -1)
    stream = io.BytesIO()
    if not wide:
        Image.fromarray(both, "LA").save(stream, "PNG")
    data = png(both) if wide else stream.getvalue()
    right(data, scene())
    facts, _ = images.describe(data)
    assert "alpha of every pixel is 0" in facts.oddity
    assert facts.sha1 == images.digest(data, rules=2)


@pytest.mark.parametrize("tag", [1, 2])
def test_presentation_lut_shape_inverse_inverts_once(tag):
    tags = {"PhotometricInterpretation": f"MONOCHROME{tag}", "PresentationLUTShape": "INVERSE"}
    right(written(4095 - TWELVE, **tags), scene())
    identity = {**tags, "PresentationLUTShape": "IDENTITY"}
    right(written(4095 - TWELVE if tag == 1 else TWELVE, **identity), scene())


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=["little", "big"])
@pytest.mark.parametrize("signed", [False, True])
def test_high_bit_15_of_12_bits_is_shifted(signed, syntax):
    noise = np.random.default_rng(0).integers(0, 16, TWELVE.shape, dtype=np.uint16)
    packed = (TWELVE ^ (2048 if signed else 0)) << 4 | noise
    right(written(packed.view(np.int16) if signed else packed, 12, syntax, HighBit=15), scene())


def test_rescale_slope_of_0_counts_as_1_and_is_named():
    data = written(TWELVE, RescaleSlope="0", RescaleIntercept="7")
    right(data, scene())
    assert images.describe(data)[0].oddity == "the rescale slope 0 is taken as 1"


@pytest.mark.parametrize("tag", [1, 2])
@pytest.mark.parametrize(("value", "share"), [(-32768, 0.3), (-32768, 0.03), (32767, 0.3)])
def test_extreme_constant_without_a_tag_is_padding(value, share, tag):
    values = TWELVE.astype(np.int16) - 1000
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[: round(SIDE * share)] = True
    values[hidden] = value
    truth = scene() if tag == 2 else 1 - scene()
    data = written(values, 16, PhotometricInterpretation=f"MONOCHROME{tag}")
    right(data, truth, ~hidden)
    assert f"near {value}" in images.describe(data)[0].oddity
    if share > 0.05:
        assert images.letterboxed(data, SIDE)[hidden].max() == 0


@pytest.mark.parametrize("share", [0.01, 0.02, 0.045])
def test_bright_marker_does_not_wash_the_rest_out(share):
    values = (scene(side=200) * 4095).astype(np.uint16)
    marked = np.zeros(values.shape, bool)
    marked[10 : 10 + round(200 * share * 4), 10:60] = True
    values[marked] = np.random.default_rng(0).integers(60000, 65536, int(marked.sum()))
    right(png(values[..., None]), scene(side=200), ~marked)
    assert images.letterboxed(png(values[..., None]), 200)[marked].min() == 255


def test_two_levels_are_no_marker():
    mask = np.where(scene() > 0.9, 65535, 0).astype(np.uint16)
    assert np.array_equal(images.letterboxed(png(mask[..., None]), SIDE) == 255, mask > 0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_scaling_without_a_gap_is_that_of_numpy_percentiles(kind):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        wide = (rng.normal(0, 1, (37, 41 + seed)) * 30 + 120).clip(0, 255).astype(kind)
        low, high = np.percentile(wide, (0.5, 99.5))
        gray, found = levels.to_8_bit(wide)
        assert (found.low, found.high, found.oddity) == (low, high, "")
        assert np.array_equal(gray, levels.between(wide, low, high))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 7}], ids=str)
def test_jpeg_cut_and_closed_is_truncated(options, share, tmp_path):
    data = jpeg((scene(side=300) * 255).astype(np.uint8), **options)
    assert scan([str(_file(tmp_path, "whole.jpg", data))])["error"].iloc[0] is None
    table = scan([str(_file(tmp_path, "cut.jpg", cut(data, share)))])
    assert table["error"].iloc[0] == "is truncated: its pixels end before its last row"


def test_jpeg_in_a_dicom_file_cut_and_closed_is_truncated():
    gray = (scene(side=256) * 255).astype(np.uint8)
    whole, part = (
        written(gray, 8, JPEGBaseline8Bit, PixelData=encapsulate([each])) for each in (jpeg(gray), cut(jpeg(gray), 0.5))
    )
    right(whole, scene(side=256))
    with pytest.raises(UnreadableImageError, match="is truncated: its pixels end before its last row"):
        dicom.decode(part)


def test_jpeg_with_a_grey_border_is_whole(tmp_path):
    gray = np.full((300, 300), 128, np.uint8)
    gray[:200, :200] = scene(side=200) * 255
    for number, options in enumerate(({}, {"progressive": True})):
        file = _file(tmp_path, f"{number}.jpg", jpeg(gray, **options))
        assert scan([str(file)])["error"].iloc[0] is None


def test_only_images_decoded_otherwise_have_another_digest():
    plain = [png(TWELVE[..., None]), written(TWELVE), jpeg((scene() * 255).astype(np.uint8))]
    assert [images.describe(data)[0].sha1 for data in plain] == [images.sha1(data) for data in plain]
    odd = png(np.repeat(TWELVE[..., None], 3, 2))
    assert images.describe(odd)[0].sha1 == images.digest(odd, rules=2) != images.sha1(odd)


def test_store_of_earlier_rules_is_not_filled_with_other_pixels(tmp_path):
    data = png(np.repeat(TWELVE[..., None], 3, 2))
    path = str(_file(tmp_path, "a.png", data))
    assert open_images([path], [scan([path])["sha1"].iloc[0]], 16, "train").max() == 255
    with pytest.raises(DataError, match=r"a\.png could be read when it was scanned, but now it is decoded by rules 2"):
        open_images([path], [images.sha1(data)], 16, "train")


def _file(folder, name: str, data: bytes):
    (folder / name).write_bytes(data)
    return folder / name


def generated() -> Iterator[tuple[str, bytes, np.ndarray, np.ndarray]]:
    """Yield name, file, truth in 0..1 and counted pixels of about 60 images."""
    rng = np.random.default_rng(7)
    everywhere = np.ones((SIDE, SIDE), bool)
    for bits in (8, 10, 12, 14, 16):
        for signed in (False, True):
            for tag in (1, 2):
                truth = scene(int(rng.integers(1 << 30)))
                stored = np.round((truth if tag == 2 else 1 - truth) * (2**bits - 1)).astype(np.int64)
                stored -= (1 << bits - 1) * signed
                tags: dict[str, object] = {"PhotometricInterpretation": f"MONOCHROME{tag}"}
                slope = float(rng.choice([-2.5, -1, 0, 0.25, 1, 16]))
                if slope < 0:
                    truth = 1 - truth
                tags |= {"RescaleSlope": str(slope), "RescaleIntercept": str(int(rng.integers(-2000, 2000)))}
                if rng.random() < 0.3:
                    tags["PresentationLUTShape"] = "INVERSE" if tag == 1 else "IDENTITY"
                counted, high = everywhere, bits - 1
                values = stored.astype(np.int16 if signed else np.uint16)
                if bits < 16 and rng.random() < 0.5:
                    high = 15
                    values = values << (16 - bits) | rng.integers(0, 1 << 16 - bits, values.shape).astype(values.dtype)
                elif bits in (10, 12) and rng.random() < 0.6:
                    counted = everywhere.copy()
                    counted[: rng.integers(4, 40)] = False
                    values[~counted] = -32768 if signed else 65535
                    bits_stored = 16
                    yield (
                        f"padded {bits} {signed} {tag} {slope}",
                        written(values, bits_stored, **tags),
                        truth,
                        counted,
                    )
                    continue
                syntax = ExplicitVRBigEndian if rng.random() < 0.3 else ImplicitVRLittleEndian
                yield (
                    f"dicom {bits} {signed} {tag} {slope}",
                    written(values, bits, syntax, HighBit=high, **tags),
                    truth,
                    counted,
                )
    for channels in (1, 2, 3, 4):
        for bits in (8, 10, 12, 16):
            truth = scene(int(rng.integers(1 << 30)))
            wide = np.repeat((truth * (2**bits - 1)).astype(np.uint16)[..., None], channels, 2)
            counted = everywhere.copy()
            if channels in (2, 4):
                wide[..., -1] = 65535
                counted[:, : rng.integers(0, 20)] = False
                wide[~counted] = 0
            if bits < 16:
                marked = rng.integers(2, 50, 2)
                wide[marked[0] : marked[0] + 8, marked[1] : marked[1] + 10] = 65535
                counted[marked[0] : marked[0] + 8, marked[1] : marked[1] + 10] = False
            yield f"png {channels} {bits}", png(wide), truth, counted
    for mode in ("L", "RGB", "RGBA", "LA", "P", "CMYK"):
        for kind, options in (("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})):
            truth = scene(int(rng.integers(1 << 30)))
            image = Image.fromarray((truth * 255).astype(np.uint8)).convert(mode)
            if mode in {"PNG": ("CMYK",), "JPEG": ("RGBA", "LA", "P")}[kind]:
                continue
            stream = io.BytesIO()
            image.save(stream, kind, **options)
            yield f"{kind} {mode} {options}", stream.getvalue(), truth, everywhere


def test_generated_images_are_right_or_refused():
    cases = list(generated())
    rng = np.random.default_rng(3)
    for name, data, *rest in cases[::3]:
        cases.append((f"cut {name}", data[: int(len(data) * rng.uniform(0.3, 0.95))], *rest))
    for name, data, *rest in [case for case in cases if case[0].startswith("JPEG")]:
        cases.append((f"closed {name}", cut(data, float(rng.uniform(0.3, 0.9))), *rest))
    assert len(cases) >= 60
    wrong, refused = [], 0
    for name, data, truth, counted in cases:
        try:
            images.describe(data)
        except UnreadableImageError:
            refused += 1
            if not name.startswith(("cut", "closed")):
                wrong.append(f"{name}: refused")
            continue
        try:
            right(data, truth, counted)
        except AssertionError as error:
            wrong.append(f"{name}: {str(error).splitlines()[0]}")
    assert wrong == []
    assert refused >= 10


def test_jpeg_2000_and_lossy_frames_keep_their_polarity():
    gray = (scene() * 255).astype(np.uint8)
    for tag, values in ((2, gray), (1, 255 - gray)):
        frame = encoded(values, "JPEG", quality=95)
        right(
            written(values, 8, JPEGBaseline8Bit, PixelData=frame, PhotometricInterpretation=f"MONOCHROME{tag}"), scene()
        )
