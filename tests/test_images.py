"""Reading image files of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cam_extras.images import read_image

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
