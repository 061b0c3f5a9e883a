"""One image file: the pixels that a viewer shows, or one sentence that names the file."""

import numpy as np
import pytest
from PIL import Image

from gradlens.data import image_file
from gradlens.data.image_file import decode, is_grey
from gradlens.runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow has its own of odd tags; folders are read without them

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
L, RGB = Image.fromarray(GREY), Image.fromarray(COLOUR)
HALF_CLEAR = Image.fromarray(np.full((5, 7), 100, np.uint8))


def with_alpha(image):
    image = image.copy()
    image.putalpha(HALF_CLEAR)
    return image


def of_16_bits(order):
    return Image.frombytes({"<u2": "I;16", ">u2": "I;16B"}[order], (7, 5), (GREY.astype(order) * 257).astype(order).tobytes())


ADAPTED = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
MODES = [  # (name, image, file's ending, options of save, what is read)
    ("L", L, ".png", {}, GREY),
    ("L", L, ".pgm", {}, GREY),
    ("L", L, ".BMP", {}, GREY),
    ("bilevel", L.convert("1"), ".png", {}, np.asarray(L.convert("1")) * np.uint8(255)),
    ("bilevel", L.convert("1"), ".tif", {}, np.asarray(L.convert("1")) * np.uint8(255)),
    ("LA", with_alpha(L), ".png", {}, GREY),
    ("LA", with_alpha(L), ".tif", {}, GREY),
    ("grey palette", L.convert("P"), ".png", {}, GREY),
    ("grey palette", L.convert("P"), ".bmp", {}, GREY),
    ("palette with alpha", with_alpha(L).convert("PA"), ".tif", {}, GREY),
    ("16 bits", of_16_bits("<u2"), ".png", {}, GREY),
    ("16 bits", of_16_bits("<u2"), ".tif", {}, GREY),
    ("16 bits, high byte first", of_16_bits(">u2"), ".tif", {}, GREY),
    ("16 bits as 32", Image.fromarray(GREY.astype(np.int32) * 256), ".tif", {}, GREY),
    ("floats", Image.fromarray(GREY.astype(np.float32) / 255), ".tif", {}, GREY),
    ("RGB", RGB, ".png", {}, COLOUR),
    ("RGB", RGB, ".tiff", {}, COLOUR),
    ("RGB", RGB, ".webp", {"lossless": True}, COLOUR),
    ("grey as RGB", L.convert("RGB"), ".png", {}, np.repeat(GREY[:, :, None], 3, 2)),
    ("RGBA", with_alpha(RGB), ".png", {}, COLOUR),
    ("palette", ADAPTED, ".png", {}, COLOUR),
    ("palette, one colour clear", ADAPTED, ".png", {"transparency": 3}, COLOUR),
    ("palette, half clear", ADAPTED, ".png", {"transparency": bytes(range(0, 250, 10))}, COLOUR),
    ("CMYK", RGB.convert("CMYK"), ".tif", {}, COLOUR),
]


@pytest.mark.parametrize(("image", "ending", "options", "want"), [case[1:] for case in MODES], ids=[f"{c[0]}{c[2]}" for c in MODES])
def test_every_kind_of_pixels(image, ending, options, want, tmp_path):
    file = tmp_path / f"x{ending}"
    image.save(file, **options)
    got = decode(str(file))
    assert got.pixels.dtype == np.uint8
    assert np.array_equal(got.pixels, want)
    assert is_grey(str(file)) == (want.ndim == 2)
    assert not got.frames


@pytest.mark.parametrize("ending", [".jpg", ".JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_jpegs_of_every_mode(mode, ending, tmp_path):
    smooth = Image.fromarray(np.linspace(40, 200, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8))
    smooth.convert(mode).save(tmp_path / f"x{ending}", quality=98, subsampling=0)
    got = decode(str(tmp_path / f"x{ending}")).pixels
    assert np.abs(got.astype(int) - np.asarray(smooth.convert("L") if mode == "L" else smooth)).max() <= 4


def test_lab_is_colour(tmp_path):
    lab = Image.merge("LAB", [Image.new("L", (2, 2), v) for v in (136, 208, 195)])  # sRGB red: L 53 of 100, a 80, b 67
    lab.save(tmp_path / "x.tif")
    assert np.abs(decode(str(tmp_path / "x.tif")).pixels[0, 0].astype(int) - (255, 0, 0)).max() <= 12
    assert not is_grey(str(tmp_path / "x.tif"))


def test_a_tiff_of_16_bits_whose_zero_is_white(tmp_path):
    of_16_bits("<u2").save(tmp_path / "x.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "x.tif") as image:
        assert image.tag_v2[262] == 0
    assert np.array_equal(decode(str(tmp_path / "x.tif")).pixels, 255 - GREY)


# ------------------------------------------------------------------------------------------------------- orientation


ENDINGS = [".jpg", ".png", ".tif", ".webp"]
SIDES = {  # EXIF 2.3: orientation -> the side of the shown picture at which the stored first row lies, and first column
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def shown(stored, orientation):
    """The picture as it is to be seen, pixel by pixel."""
    height, width = stored.shape[:2]
    sides = SIDES[orientation]
    turned = sides[0] in ("left", "right")
    want = np.empty((width, height) if turned else (height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            places = {}
            for side, i, n in ((sides[0], row, height), (sides[1], column, width)):
                places["x" if side in ("left", "right") else "y"] = i if side in ("left", "top") else n - 1 - i
            want[places["y"], places["x"]] = stored[row, column]
    return want


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("orientation", SIDES)
def test_pictures_are_turned_as_their_tag_says(orientation, ending, tmp_path):
    stored = np.kron(RNG.permutation(np.arange(20, 244, 16, dtype=np.uint8))[:6].reshape(2, 3), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"x{ending}", exif=exif, **({"lossless": True} if ending == ".webp" else {}))
    got = decode(str(tmp_path / f"x{ending}")).pixels
    got = got[:, :, 0] if got.ndim == 3 else got
    assert got.shape == shown(stored, orientation).shape
    assert np.abs(got.astype(int) - shown(stored, orientation)).max() <= 3


@pytest.mark.parametrize("value", [0, 9, 65535, "upside down"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_orientation_that_is_none_turns_nothing(value, ending, tmp_path):
    exif = Image.Exif()
    exif[0x010E if isinstance(value, str) else 0x0112] = value
    RGB.save(tmp_path / f"x{ending}", exif=exif)
    assert decode(str(tmp_path / f"x{ending}")).pixels.shape == (5, 7, 3)


def test_a_damaged_tag_turns_nothing(tmp_path):
    RGB.save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert decode(str(tmp_path / "x.jpg")).pixels.shape == (5, 7, 3)


# ---------------------------------------------------------------------------------------------- more frames, other names


@pytest.mark.parametrize(("ending", "options"), [(".tif", {}), (".png", {}), (".webp", {"lossless": True})])
def test_of_several_frames_the_first_is_read(ending, options, tmp_path):
    RGB.save(tmp_path / f"x{ending}", save_all=True, append_images=[RGB.rotate(180), RGB], **options)
    got = decode(str(tmp_path / f"x{ending}"))
    assert np.array_equal(got.pixels, COLOUR)
    assert got.frames


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_file_under_another_types_name_is_what_it_holds(kind, tmp_path):
    L.save(tmp_path / "x.bmp", format=kind)
    assert decode(str(tmp_path / "x.bmp")).pixels.shape[:2] == (5, 7)


def refused(file):
    with pytest.raises(InputError) as caught:
        decode(str(file))
    text = str(caught.value)
    assert str(file) in text
    assert "\n" not in text
    with pytest.raises(InputError):
        is_grey(str(file)) if "of no known" in text or "there" in text or "denied" in text or "empty" in text else decode(str(file))
    return text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (GREY.astype(np.float32), "floats range from 4 to"),
        (GREY.astype(np.float32) / 255 - 0.5, "scale them to 0 to 1"),
        (np.where(GREY > 9, np.nan, 0).astype(np.float32), "not all finite"),
        (np.full((5, 7), np.inf, np.float32), "not all finite"),
        (GREY.astype(np.int32) - 300, "whole numbers range from -"),
        (GREY.astype(np.int32) * 1000, "whole numbers range from"),
    ],
)
def test_values_without_a_known_range_are_refused(values, words, tmp_path):
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert words in refused(tmp_path / "x.tif")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<svg/>"])
def test_what_is_no_picture_is_refused(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    text = refused(tmp_path / "x.png")
    assert "not a readable image" in text
    assert ("it is empty" in text) == (not content)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp", ".webp", ".ppm"])
def test_a_file_cut_short_is_refused(ending, tmp_path):
    file = tmp_path / f"x{ending}"
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(InputError, match="not a readable image"):
        decode(str(file))


def test_a_link_to_nothing_names_its_target(tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "annexed" / "key.png")
    assert f"is a link to {tmp_path / 'annexed' / 'key.png'}, which does not exist" in refused(tmp_path / "x.png")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    RGB.save(tmp_path / "x.png")

    def no(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_file, "open", no, raising=False)
    assert refused(tmp_path / "x.png").endswith("x.png cannot be read: permission denied")
