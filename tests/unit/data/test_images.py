"""Decoding: every mode becomes 8-bit gray; every damage gives a short message."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lungtune.data.fingerprint import SIDE
from lungtune.data.readers import images
from lungtune.data.scan import facts


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 64, height: int = 64) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*(("PNG", mode) for mode in ("L", "RGB", "RGBA", "LA", "P")), *(("JPEG", mode) for mode in ("L", "RGB", "CMYK"))],
)
def test_modes_agree(kind, mode):
    data = encoded(Image.fromarray(gradient()).convert(mode), kind)
    assert np.abs(images.letterboxed(data, 64).astype(int) - gradient()).max() <= 6


def test_one_bit():
    data = encoded(Image.fromarray(gradient()).point(lambda v: 255 * (v > 127)).convert("1"))
    assert set(np.unique(images.letterboxed(data, 64))) == {0, 255}


def test_transparent_pixels_are_black():
    rgba = np.full((8, 8, 4), 255, np.uint8)
    rgba[:, :4, 3] = 0
    square = images.letterboxed(encoded(Image.fromarray(rgba)), 8)
    assert square[:, :4].max() == 0
    assert square[:, 4:].min() == 255


def test_transparent_palette_is_black():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 200, 200] * 256)
    assert images.letterboxed(encoded(image, transparency=0), 8).max() == 0
    assert images.letterboxed(encoded(image), 8).min() == 200


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_16_bit_png_uses_the_whole_gray_range(bits):
    wide = (gradient(256, 64).astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    wide[0, 0] = 65535  # a burned-in marker
    square = images.letterboxed(encoded(Image.fromarray(wide)), 256)[96:160]
    assert np.abs(square.astype(int) - gradient(256, 64)).mean() < 3
    assert square.min() == 0
    assert square.max() == 255


def test_constant_16_bit_png_is_black():
    assert images.letterboxed(encoded(Image.fromarray(np.full((9, 9), 4000, np.uint16))), 9).max() == 0


def test_16_bit_png_with_one_bright_pixel_keeps_it():
    wide = np.zeros((64, 64), np.uint16)
    wide[3, 3] = 900
    assert images.letterboxed(encoded(Image.fromarray(wide)), 64)[3, 3] == 255


@pytest.mark.parametrize(("width", "height"), [(100, 50), (50, 100), (3, 200), (1, 1)])
def test_letterbox_keeps_the_aspect_and_centres(width, height):
    square = images.letterboxed(encoded(Image.new("L", (width, height), 255)), 32)
    assert square.shape == (32, 32)
    assert square.dtype == np.uint8
    rows, columns = np.flatnonzero(square.max(1)), np.flatnonzero(square.max(0))
    assert len(rows) == max(1, round(32 * height / max(width, height)))
    assert len(columns) == max(1, round(32 * width / max(width, height)))
    for taken in (rows, columns):
        assert abs(taken[0] - (31 - taken[-1])) <= 1


def test_reduction_is_antialiased():
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        small = images.letterboxed(encoded(Image.fromarray(checks), kind), 32)
        assert np.abs(small.astype(int) - 127).max() < 12


def test_fast_jpeg_decoding_stays_close_to_full_decoding():
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 100), dtype=np.uint8))
    image = coarse.resize((1200, 900), Image.Resampling.BICUBIC)
    fast = images.letterboxed(encoded(image, "JPEG", quality=95), 128)
    full = images.letterboxed(encoded(image), 128)
    assert np.abs(fast.astype(int) - full).mean() < 1.5


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(gradient(40, 20)), "JPEG", exif=exif.tobytes(), quality=95)
    square = images.letterboxed(data, 40)
    assert np.flatnonzero(square.max(0))[[0, -1]].tolist() == [10, 29]


def test_facts(tmp_path):
    path = tmp_path / "a.jpeg"
    path.write_bytes(encoded(Image.fromarray(gradient(40, 20)).convert("RGB")))
    result = facts(str(path))
    assert (result.width, result.height, result.mode, result.type) == (40, 20, "RGB", "PNG")
    assert result.sha1 == images.sha1(path.read_bytes())
    assert len(result.fingerprint) == SIDE**2


def test_the_same_picture_in_another_file_has_the_same_pixels(tmp_path):
    for name, level in (("a.png", 1), ("b.png", 9)):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(gradient()), compress_level=level))
    first, second = (facts(str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.sha1 != second.sha1
    assert first.pixels == second.pixels


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello", "is neither PNG nor JPEG"),
        (encoded(NOISE, "GIF"), "is neither PNG nor JPEG"),
        (encoded(NOISE, "JPEG")[:3000], "is damaged: .*truncated"),
        (encoded(NOISE)[:3000], "is damaged: "),
        (encoded(NOISE)[:30], "is (damaged|neither PNG)"),
        (encoded(NOISE)[:3000] + b"\0" * 6000, "is damaged: "),
        (encoded(Image.new("1", (20_000, 10_000))), "has more than 89,478,485 pixels"),
        (encoded(Image.new("1", (10_000, 10_000))), "has more than 89,478,485 pixels"),
    ],
    ids=["empty", "text", "gif", "truncated jpeg", "truncated png", "header only", "overwritten", "bomb", "large"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damage_is_reported(tmp_path, data, message):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(images.UnreadableImageError, match=message):
        facts(str(path))


def test_any_cut_of_a_file_is_a_named_damage(tmp_path):
    for kind in ("PNG", "JPEG"):
        data = encoded(NOISE, kind)
        path = tmp_path / "x"
        for end in range(1, len(data) - 64, 97):
            path.write_bytes(data[:end])
            with pytest.raises(images.UnreadableImageError, match="is "):
                facts(str(path))


def test_random_bytes_never_crash(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "x"
    for kind in ("PNG", "JPEG"):
        data = np.frombuffer(encoded(NOISE, kind), np.uint8)
        for _ in range(150):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            path.write_bytes(damaged.tobytes())
            try:
                facts(str(path))
            except images.UnreadableImageError as error:
                assert str(error)  # noqa: PT017


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(images.UnreadableImageError, match="does not exist"):
        facts(str(tmp_path / "none.png"))
    with pytest.raises(images.UnreadableImageError, match="cannot be read: Is a directory"):
        facts(str(tmp_path))
