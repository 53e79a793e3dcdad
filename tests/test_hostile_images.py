"""Image files that nobody should trust, by both decoders: used as defined here, or refused by name."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from wsol_utils import datasets, masks
from wsol_utils.data.datasets import DatasetError, ImageDataset
from wsol_utils.data.loader import Loader
from wsol_utils.scores.external.metadata import Metadata

LEFT, RIGHT = (200, 40, 60), (30, 120, 220)  # the colours of the halves
GREYS = (40, 200)
WIDTH, HEIGHT, SIDE = 32, 24, 16


def halves(left, right, size=(WIDTH, HEIGHT), dtype=np.uint8) -> np.ndarray:
    """A picture of two halves, (h, w) or (h, w, channels)."""
    picture = np.empty((size[1], size[0], *np.shape(left)), dtype=dtype)
    picture[:, : size[0] // 2], picture[:, size[0] // 2 :] = left, right
    return picture


COLOUR, GREY = Image.fromarray(halves(LEFT, RIGHT)), Image.fromarray(halves(*GREYS))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def row(file: Path) -> pd.DataFrame:
    """The annotation table of one image."""
    return pd.DataFrame(
        [("a", file.name, "train", 0, "c", 0, 0, [(0.0, 0.0, 1.0, 1.0)], "list.txt:1", 0.0)], columns=datasets.COLUMNS
    )


def dataset(file: Path) -> ImageDataset:
    return ImageDataset(row(file), file.parent, datasets.test_transform(SIDE))


def checked(file: Path) -> tuple[int, int]:
    """What `check` finds: width and height."""
    table = datasets.check(row(file), file.parent)
    return int(table["width"][0]), int(table["height"][0])


def by_pillow(file: Path) -> torch.Tensor:
    return dataset(file).frame(0)[0]


def by_torchvision(file: Path) -> torch.Tensor:
    [(images, _, _)] = Loader(dataset(file), decoder="torchvision").batches([[0]])
    return torch.from_numpy(datasets.denormalize(images[0])).permute(2, 0, 1)


WAYS = {"check": checked, "pillow": by_pillow, "torchvision": by_torchvision}


def transparent(file: Path) -> None:
    """A palette, of which the left colour is clear and the right one half so."""
    image = Image.fromarray(halves(0, 1)).convert("P")
    image.putpalette([*LEFT, *RIGHT])
    image.save(file, format="PNG", transparency=bytes([0, 128]))


def clear(file: Path) -> None:
    """One colour of the picture stands for nothing."""
    COLOUR.save(file, format="PNG", transparency=LEFT)


def turned(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    COLOUR.save(file, format="JPEG", exif=exif, quality=95, subsampling=0)


def animated(form: str) -> Callable[[Path], None]:
    more = {"lossless": True} if form == "WEBP" else {}
    black = Image.new("RGB", COLOUR.size)
    return lambda file: COLOUR.save(file, format=form, save_all=True, append_images=[black] * 2, **more)


def wide(dtype: str, form: str) -> Callable[[Path], None]:
    """Grey of 16 bits: the same greys 257 times as large, so that white is 65535."""
    deep = Image.fromarray(halves(*(257 * grey for grey in GREYS), dtype=dtype))
    return lambda file: deep.save(file, format=form)


def jpeg(image: Image.Image, **options) -> Callable[[Path], None]:
    return lambda file: image.save(file, format="JPEG", quality=95, **options)


def png(image: Image.Image) -> Callable[[Path], None]:
    return lambda file: image.save(file, format="PNG")


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    image = image.convert(mode)
    image.putalpha(Image.fromarray(halves(0, 255)))
    return image


C, G = (LEFT, RIGHT), tuple((grey,) * 3 for grey in GREYS)
USED = {  # name of the file, how it is written, its two colours
    "a JPEG": ("a.jpg", jpeg(COLOUR, subsampling=0), C),
    "a progressive JPEG": ("a.jpg", jpeg(COLOUR, subsampling=0, progressive=True), C),
    "a grey JPEG": ("a.jpg", jpeg(GREY), G),
    "a CMYK JPEG": ("a.jpg", jpeg(COLOUR.convert("CMYK")), C),
    "EXIF rotation is not applied": ("a.jpg", turned, C),
    "a PNG named .jpg": ("a.jpg", png(COLOUR), C),
    "a JPEG named .png": ("a.png", jpeg(COLOUR, subsampling=0), C),
    "no ending": ("picture", jpeg(COLOUR, subsampling=0), C),
    "a palette": ("a.png", png(COLOUR.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)), C),
    "a palette with transparency": ("a.png", transparent, C),
    "a transparent colour": ("a.png", clear, C),
    "grey": ("a.png", png(GREY), G),
    "one bit": ("a.png", png(Image.fromarray(halves(0, 255)).convert("1")), ((0,) * 3, (255,) * 3)),
    "grey and alpha": ("a.png", png(with_alpha(GREY, "LA")), G),
    "colour and alpha": ("a.png", png(with_alpha(COLOUR, "RGBA")), C),
    "16-bit PNG": ("a.png", wide("uint16", "PNG"), G),
    "16-bit TIFF": ("a.tif", wide("<u2", "TIFF"), G),
    "16-bit TIFF, big-endian": ("a.tif", wide(">u2", "TIFF"), G),
    "16-bit PGM": ("a.pgm", wide("int32", "PPM"), G),
    "the first picture of a GIF": ("a.gif", animated("GIF"), C),
    "the first picture of a WebP": ("a.webp", animated("WEBP"), C),
    "a single pixel": ("a.png", png(Image.new("RGB", (1, 1), LEFT)), (LEFT, LEFT)),
    "a single pixel as JPEG": ("a.jpg", jpeg(Image.new("RGB", (1, 1), LEFT)), (LEFT, LEFT)),
    "a single row": ("a.jpg", jpeg(Image.fromarray(halves(LEFT, RIGHT, (5000, 1))), subsampling=0), C),
    "a single column": ("a.png", png(Image.new("RGB", (1, 5000), RIGHT)), (RIGHT, RIGHT)),
}


@pytest.mark.fault(
    "images: wrong ending, CMYK, palette, 16 bits, grey, alpha, EXIF rotation, animation, one pixel wide",
    "used as defined: alpha dropped, 16 bits scaled to 8, rotation not applied, the first picture; by both decoders",
)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", USED)
def test_unusual_images_are_used_as_defined(tmp_path, name):
    file, write, colours = USED[name]
    write(tmp_path / file)
    with Image.open(tmp_path / file) as image:
        assert checked(tmp_path / file) == image.size
    for way in (by_pillow, by_torchvision):
        frame = way(tmp_path / file)
        assert frame.shape == (3, SIDE, SIDE) and frame.dtype == torch.uint8
        for column, colour in ((1, colours[0]), (-2, colours[1])):
            found = frame[:, :, column].float().mean(dim=1)
            np.testing.assert_allclose(found, colour, atol=5, err_msg=f"{way.__name__}, column {column}")


@pytest.mark.parametrize("name", ["a JPEG", "a grey JPEG", "a CMYK JPEG", "a PNG named .jpg"])
def test_torchvision_decodes_plain_jpegs_alone(tmp_path, monkeypatch, name):
    calls = []
    decode = torchvision.io.decode_jpeg
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda *a, **k: calls.append(name) or decode(*a, **k))
    USED[name][1](tmp_path / "a.jpg")
    by_torchvision(tmp_path / "a.jpg")
    assert len(calls) == (name in ("a JPEG", "a grey JPEG"))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises so much, and which holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(5))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_of(width: int, height: int, tmp_path: Path) -> bytes:
    """A small JPEG whose header promises so much."""
    NOISE.save(tmp_path / "small", format="JPEG")
    data = (tmp_path / "small").read_bytes()
    at = data.index(b"\xff\xc0") + 5  # marker, length, precision; then height and width
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.fault(
    "an image of 30,000 x 30,000 pixels, or of any number above Pillow's limit, 179 millions",
    "refused by name before it is decoded, with the limit and how to raise it; torchvision never sees it",
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("size", [(30_000, 30_000), (65_500, 65_500), (10_000, 17_896)])
def test_images_beyond_pillows_limit(tmp_path, monkeypatch, way, form, size):
    for owner, decoder in ((torchvision.io, "decode_jpeg"), (Image.Image, "convert")):
        monkeypatch.setattr(owner, decoder, lambda *_, **__: pytest.fail("it was decoded"))
    (tmp_path / "a.jpg").write_bytes(png_of(*size) if form == "png" else jpeg_of(*size, tmp_path))
    assert size[0] * size[1] > 2 * Image.MAX_IMAGE_PIXELS
    with pytest.raises(DatasetError) as caught:
        WAYS[way](tmp_path / "a.jpg")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/a.jpg: an image that does not decode (")
    assert "limit of" in message and message.endswith("; scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("way", WAYS)
def test_the_limit_is_pillows_own(tmp_path, monkeypatch, way):
    """To the pixel, twice MAX_IMAGE_PIXELS; from once as many on Pillow would warn. None lifts it."""
    NOISE.save(tmp_path / "a.jpg")
    for limit in (WIDTH * HEIGHT // 2, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        WAYS[way](tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 2 - 1)
    with pytest.raises(
        DatasetError, match=rf"a\.jpg: .*{WIDTH * HEIGHT} pixels.* limit of {WIDTH * HEIGHT - 2} pixels"
    ):
        WAYS[way](tmp_path / "a.jpg")


def eps(file: Path) -> None:
    COLOUR.save(file, format="EPS")


REFUSED = {
    "text": (lambda file: file.write_text("no image, but a letter\n" * 100), "no image of a known format"),
    "nothing": (lambda file: file.write_bytes(b""), "no image of a known format"),
    "a header alone": (lambda file: file.write_bytes(b"\xff\xd8\xff"), ""),
    "floating point": (
        lambda file: Image.fromarray(halves(0, 1, dtype="float32")).save(file, format="TIFF"),
        "pixels of 32 bits",
    ),
    "32 bits": (
        lambda file: Image.fromarray(halves(0, 1, dtype="int32")).save(file, format="TIFF"),
        "pixels of 32 bits",
    ),
    "a program for a printer": (eps, "no image of a known format"),
}


@pytest.mark.fault(
    "an image file that is empty, text, a PostScript program, or has pixels of 32 bits",
    "refused by name and cause; nothing is handed to another program",
)
@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_no_usable_image(tmp_path, name):
    write, cause = REFUSED[name]
    write(tmp_path / "a.jpg")
    for way in WAYS.values():
        with pytest.raises(DatasetError) as caught:
            way(tmp_path / "a.jpg")
        assert str(caught.value).startswith(f"{tmp_path}/a.jpg: an image that does not decode ({cause}")
        assert "unpack the data set again" in str(caught.value)


@pytest.mark.fault("an image cut off at any tenth of its bytes", "refused by name by both decoders, never half used")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_images_cut_off_at_every_tenth(tmp_path, form):
    NOISE.save(tmp_path / "a.jpg", format=form)
    whole = (tmp_path / "a.jpg").read_bytes()
    for tenth in range(10):
        (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * tenth // 10])
        for name, way in WAYS.items():
            with pytest.raises(DatasetError, match=r"a\.jpg: an image that does not decode \(.*unpack"):
                assert way(tmp_path / "a.jpg") is None, (tenth, name)


@pytest.mark.fault("a photograph whose end was overwritten by zeros", "refused by notebook 01, though decoders take it")
@pytest.mark.parametrize("quality", [60, 95, 98])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_jpeg_whose_end_is_zeros(tmp_path, quality, share):
    NOISE.save(tmp_path / "a.jpg", quality=quality)
    assert checked(tmp_path / "a.jpg") == NOISE.size
    whole = (tmp_path / "a.jpg").read_bytes()
    kept = len(whole) - int(share * (len(whole) - 700))  # not of the header
    (tmp_path / "a.jpg").write_bytes(whole[:kept] + bytes(len(whole) - kept))
    with pytest.raises(DatasetError, match=r"a\.jpg: an image that does not decode \(.*unpack"):
        checked(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(whole + b"what a camera appends")
    assert checked(tmp_path / "a.jpg") == NOISE.size


def test_a_file_that_is_not_there(tmp_path):
    for way in (by_pillow, by_torchvision):
        with pytest.raises(
            DatasetError, match=r"a\.jpg: cannot be read \(No such file or directory\); make it readable"
        ):
            way(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(DatasetError, match=r"a\.jpg: missing image"):
        checked(tmp_path / "a.jpg")


def test_a_link_to_an_image_is_an_image(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    COLOUR.save(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    assert checked(tmp_path / "a.jpg") == (WIDTH, HEIGHT)
    assert torch.equal(by_pillow(tmp_path / "a.jpg"), by_pillow(tmp_path / "elsewhere" / "b.jpg"))


def test_a_name_longer_than_file_systems_take(tmp_path):
    table = row(tmp_path / "a.jpg").assign(path="ä" * 200)
    with pytest.raises(DatasetError, match="missing image"):
        datasets.check(table, tmp_path)


# Masks: the same care.


def mask(file: Path) -> list:
    found = Metadata(["x"], {"x": 0}, {}, {}, {"x": [(file.name, "")]})
    (pixels,) = masks.of_openimages(found, file.parent, ["x"], 2)
    return pixels.tolist()


@pytest.mark.parametrize("levels", [(0, 65535), (255, 256)])  # what is 1 of 255 in 8 bits is an object
def test_masks_of_16_bits(tmp_path, levels):
    Image.fromarray(halves(*levels, size=(2, 2), dtype=np.uint16)).save(tmp_path / "m.png")
    assert mask(tmp_path / "m.png") == [[0, 1], [0, 1]]


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 17_896)])
def test_masks_beyond_pillows_limit(tmp_path, size):
    (tmp_path / "m.png").write_bytes(png_of(*size))
    with pytest.raises(DatasetError, match=r"m\.png: a mask that does not decode \(.*limit of \d+"):
        mask(tmp_path / "m.png")
