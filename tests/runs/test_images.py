"""Reading image files of every kind."""

from __future__ import annotations

import builtins
import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from cam_extras.runs.images import read_image, to_rgb

RAMP = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (10, 1))


def pixels(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits(tmp_path, suffix):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(pixels(tmp_path / f"image.{suffix}"), RAMP[..., None].repeat(3, axis=2))


def test_grey_palette_and_print_colours(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    Image.fromarray(RAMP).convert("P").save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(pixels(tmp_path / name), RAMP[..., None].repeat(3, axis=2))
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "print.tiff")
    np.testing.assert_array_equal(pixels(tmp_path / "print.tiff"), np.full((4, 4, 3), (255, 0, 0)))


def test_what_is_transparent_becomes_white(tmp_path):
    image = np.zeros((4, 4, 4), np.uint8)
    image[..., 0], image[:2, :, 3], image[2:, :, 3] = 255, 255, 0
    Image.fromarray(image).save(tmp_path / "image.png")
    assert (pixels(tmp_path / "image.png")[:2] == (255, 0, 0)).all()
    assert (pixels(tmp_path / "image.png")[2:] == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 255] * 2)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (pixels(tmp_path / "palette.png") == 255).all()


def test_rotation_is_undone(tmp_path):
    image = np.zeros((20, 10, 3), np.uint8)
    image[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    turned = pixels(tmp_path / "turned.png")
    assert turned.shape == (10, 20, 3)
    assert (turned[:, 10:] == 255).all()
    assert (turned[:, :10] == 0).all()


def test_what_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no image"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="there is no image"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"cannot read .*text\.png: cannot identify image file"):
        read_image(tmp_path / "text.png")
    Image.fromarray(RAMP).resize((500, 500)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot read .*cut\.png"):
        read_image(tmp_path / "cut.png")
    for mode in ("F", "I"):
        Image.fromarray(RAMP).convert(mode).save(tmp_path / "values.tiff")
        with pytest.raises(ValueError, match=f"holds '{mode}' values, whose range is not known"):
            read_image(tmp_path / "values.tiff")
    Image.fromarray(RAMP).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"cannot read .*bomb\.png: .* decompression bomb"):
        read_image(tmp_path / "bomb.png")


# A folder as people have them. Each file is odd or broken in its own way; what is expected is its pixels, or the error.
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=2)
NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)


def grey(values):
    return np.asarray(values, np.uint8)[..., None].repeat(3, axis=2)


def over_white(colours, alpha):
    alpha = alpha[..., None] / 255
    return colours * alpha + 255 * (1 - alpha)


def save(image, format_="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, bits, colour_type, rows, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of_12_bits(values):
    """Pack one row with an even number of values; Pillow reads such files but does not write them."""
    packed = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in zip(values[::2], values[1::2], strict=True))
    entries = [(256, 4, len(values)), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, 1), (279, 4, len(packed))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    start = 8 + len(packed)
    return b"II*\0" + struct.pack("<I", start) + packed + struct.pack("<H", len(entries)) + directory + b"\0" * 4


def turned(orientation, image=COLOURS):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(Image.fromarray(image), exif=exif)


def with_alpha(mode, *bands):
    return save(Image.merge(mode, [Image.fromarray(np.ascontiguousarray(band)) for band in bands]))


ALPHA = np.full_like(RAMP, 255)
ALPHA[:, 4:8], ALPHA[:, 8:] = 128, 0
RAMP16 = RAMP.astype(np.uint16) * 257
PALETTE = Image.fromarray(RAMP % 3, "P")
PALETTE.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
PALETTE_COLOURS = np.eye(3, dtype=np.uint8)[RAMP % 3] * 255

ODD = {
    "rgb.png": (save(Image.fromarray(COLOURS)), COLOURS),
    "rgba.png": (with_alpha("RGBA", *np.moveaxis(COLOURS, 2, 0), ALPHA), over_white(COLOURS, ALPHA)),
    "grey.png": (save(Image.fromarray(RAMP)), grey(RAMP)),
    "grey and alpha.png": (with_alpha("LA", RAMP, ALPHA), over_white(grey(RAMP), ALPHA)),
    "one bit.png": (save(Image.fromarray(RAMP > 100)), grey((RAMP > 100) * 255)),
    "two bits.png": (png(4, 1, 2, 0, b"\0\x1b"), grey([[0, 85, 170, 255]])),
    "palette.png": (save(PALETTE), PALETTE_COLOURS),
    "palette with a transparent colour.png": (
        save(PALETTE, transparency=1),
        np.where(RAMP[..., None] % 3 == 1, 255, PALETTE_COLOURS),
    ),
    "palette with alpha.png": (
        save(PALETTE, transparency=bytes([0, 128, 255])),
        over_white(PALETTE_COLOURS, np.array([0, 128, 255])[RAMP % 3]),
    ),
    "palette.gif": (save(Image.fromarray(RAMP), "GIF"), grey(RAMP)),
    "animation.gif": (
        save(Image.fromarray(RAMP), "GIF", save_all=True, append_images=[Image.fromarray(255 - RAMP)]),
        grey(RAMP),
    ),
    "transparent colour.png": (
        png(2, 1, 8, 2, b"\0\1\2\3\7\7\7", chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))),
        [[[255] * 3, [7] * 3]],
    ),
    # Adobe stores the inks inverted; the values of one colour survive JPEG.
    "print.jpg": (save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), [[[255, 0, 0]] * 8] * 8),
    "print, light.jpg": (save(Image.new("CMYK", (8, 8)), "JPEG", quality=95), [[[255, 255, 255]] * 8] * 8),
    "print, black.jpg": (save(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG", quality=95), [[[0, 0, 0]] * 8] * 8),
    "print.tiff": (save(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF"), [[[0, 255, 255]] * 2] * 2),
    "16 bits.png": (save(Image.fromarray(RAMP16)), grey(RAMP)),
    "16 bits.tiff": (save(Image.fromarray(RAMP16), "TIFF"), grey(RAMP)),
    "16 bits, big-endian.tiff": (save(Image.fromarray(RAMP16.astype(">u2")), "TIFF"), grey(RAMP)),
    "16 bits, 0 is white.tiff": (save(Image.fromarray(RAMP16), "TIFF", tiffinfo={262: 0}), grey(255 - RAMP)),
    "16 bits.pgm": (b"P5 16 10 65535\n" + RAMP16.astype(">u2").tobytes(), grey(RAMP)),
    "16 bits.jp2": (save(Image.fromarray(RAMP16), "JPEG2000"), grey(RAMP)),
    "16 bits, turned.png": (turned(6, RAMP16), grey(np.rot90(RAMP, -1))),
    "16 bits, colour.png": (png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 65535, 257, 0)), [[[255, 1, 0]]]),
    "12 bits.tiff": (tiff_of_12_bits([0, 4095, 819, 1638]), grey([[0, 255, 51, 102]])),
    "text that is no EXIF.jpg": (
        save(Image.new("RGB", (8, 8), "white"), "JPEG", exif=b"Exif\0\0garbage"),
        [[[255] * 3] * 8] * 8,
    ),
    "name says otherwise.jpg": (save(Image.fromarray(COLOURS), "BMP"), COLOURS),
    "one pixel.png": (save(Image.new("RGB", (1, 1), (1, 2, 3))), [[[1, 2, 3]]]),
    **{
        f"turned {orientation}.png": (turned(orientation), upright)
        for orientation, upright in {
            1: COLOURS,
            2: COLOURS[:, ::-1],
            3: COLOURS[::-1, ::-1],
            4: COLOURS[::-1],
            5: COLOURS.transpose(1, 0, 2),
            6: np.rot90(COLOURS, -1),
            7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(COLOURS),
            9: COLOURS,  # there is no such orientation
        }.items()
    },
}

BROKEN = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"this is no image", "cannot identify image file"),
    **{
        f"cut off.{format_.lower()}": (save(Image.fromarray(NOISE), format_)[:-1000], "")
        for format_ in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    },
    "cut off in the header.png": (save(Image.fromarray(NOISE))[:20], ""),
    "garbage after the header.png": (b"\x89PNG\r\n\x1a\n" + b"x" * 40, ""),
    "no pixels.png": (png(0, 0, 8, 2, b""), "cannot identify image file"),
    "no pixels.ppm": (b"P6 0 5 255\n", "cannot identify image file"),
    "no data.png": (png(4, 4, 8, 0, b""), "image file is truncated"),
    "wrong checksum.png": (save(Image.fromarray(NOISE)).replace(b"IDAT", b"IDAT!", 1), ""),
    "text bomb.png": (
        png(1, 1, 8, 0, b"\0\1", chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * (3 << 20)))),
        "Decompressed data too large",
    ),
    "bomb.png": (png(14_000, 14_000, 8, 0, b""), "decompression bomb"),
    "bomb of which Pillow only warns.png": (png(10_000, 10_000, 8, 0, b""), "100000000 pixels exceed the limit of"),
    "32 bits.tiff": (save(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "holds 'I' values"),
    "floats.tiff": (save(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "holds 'F' values"),
}


@pytest.fixture
def opened(monkeypatch):
    """The files that were opened."""
    files = []
    open_ = builtins.open

    def opening(*arguments, **options):
        files.append(open_(*arguments, **options))
        return files[-1]

    monkeypatch.setattr(builtins, "open", opening)
    return files


@pytest.mark.parametrize("name", ODD)
def test_odd_files(tmp_path, opened, name):
    content, expected = ODD[name]
    (tmp_path / name).write_bytes(content)
    expected = np.asarray(expected)
    tolerance = 1 if expected.dtype.kind == "f" else 0  # rounding of what is half transparent
    got = pixels(tmp_path / name).astype(int)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    assert opened
    assert all(file.closed for file in opened)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, opened, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message or "cannot read") as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert all(file.closed for file in opened)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no image .*: it is a folder$"):
        read_image(tmp_path)
    for name in ("nowhere.png", "n" * 300, "nul\0.png"):
        with pytest.raises(ValueError, match="there is no image"):
            read_image(tmp_path / name)


def test_limit_of_pixels_is_pillows_own(tmp_path, monkeypatch):
    (tmp_path / "image.png").write_bytes(ODD["rgb.png"][0])
    for limit in (160, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        read_image(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 159)
    for action, message in (("ignore", "160 pixels exceed"), ("error", "decompression bomb")):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(ValueError, match=message):
                read_image(tmp_path / "image.png")


def test_postscript_is_not_run(tmp_path, monkeypatch):
    """Neither bare nor within a file of another format; nor where a data set has opened it."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: started.append(args))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    fields = [((3, 60), b"\1\0"), ((3, 20), b"\0\10"), ((3, 30), b"\0\10"), ((3, 120), b"\5")]
    iptc = b"".join(
        bytes([0x1C, *tag]) + struct.pack(">H", len(data)) + data for tag, data in [*fields, ((8, 10), eps)]
    )
    for name, content, format_ in (("a.eps", eps, "EPS"), ("a.png", eps, "EPS"), ("a.iim", iptc, "IPTC")):
        (tmp_path / name).write_bytes(content)
        match = f"cannot read .*{name}: it is {format_}, which Ghostscript would have to run: convert it to PNG"
        with pytest.raises(ValueError, match=match):
            read_image(tmp_path / name)
        with Image.open(tmp_path / name) as image, pytest.raises(ValueError, match=f"it is {format_}, which"):
            to_rgb(image)
        assert not started
        with Image.open(tmp_path / name) as image, contextlib.suppress(Exception):
            image.load()
        assert started  # that is what Pillow does
        started.clear()
