"""Image files of every kind, by both decoders: used as defined here, or refused by name."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from layouts_on_disk import table
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
    return table(1).assign(path=file.name, width=0, height=0, boxes=[[(0.0, 0.0, 1.0, 1.0)]])


def dataset(file: Path) -> ImageDataset:
    return ImageDataset(row(file), file.parent, datasets.test_transform(SIDE))


def checked(file: Path) -> tuple[int, int]:
    """What `check` finds: width and height."""
    found = datasets.check(row(file), file.parent)
    return int(found["width"][0]), int(found["height"][0])


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


def turned(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    COLOUR.save(file, format="JPEG", exif=exif, quality=95, subsampling=0)


def saved(image: Image.Image, form: str, **options) -> Callable[[Path], None]:
    return lambda file: image.save(file, format=form, **options)


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    image = image.convert(mode)
    image.putalpha(Image.fromarray(halves(0, 255)))
    return image


FINE = {"quality": 95, "subsampling": 0}
DEEP = Image.fromarray(halves(*(257 * grey for grey in GREYS), dtype="uint16"))  # white is 65535
ONE = Image.new("RGB", (1, 1), LEFT)
ROW = Image.fromarray(halves(LEFT, RIGHT, (5000, 1)))
C, G = (LEFT, RIGHT), tuple((grey,) * 3 for grey in GREYS)
USED = {  # how the file, a.jpg, is written, its two colours
    "a JPEG": (saved(COLOUR, "JPEG", **FINE), C),
    "a progressive JPEG": (saved(COLOUR, "JPEG", progressive=True, **FINE), C),
    "a grey JPEG": (saved(GREY, "JPEG", quality=95), G),
    "a CMYK JPEG": (saved(COLOUR.convert("CMYK"), "JPEG", quality=95), C),
    "EXIF rotation is not applied": (turned, C),
    "a PNG named .jpg": (saved(COLOUR, "PNG"), C),
    "a palette with transparency": (transparent, C),
    "a transparent colour": (saved(COLOUR, "PNG", transparency=LEFT), C),
    "one bit": (saved(Image.fromarray(halves(0, 255)).convert("1"), "PNG"), ((0,) * 3, (255,) * 3)),
    "grey and alpha": (saved(with_alpha(GREY, "LA"), "PNG"), G),
    "colour and alpha": (saved(with_alpha(COLOUR, "RGBA"), "PNG"), C),
    "16-bit PNG": (saved(DEEP, "PNG"), G),
    "16-bit TIFF": (saved(DEEP, "TIFF"), G),
    "the first picture of a GIF": (saved(COLOUR, "GIF", save_all=True, append_images=[NOISE] * 2), C),
    "a single pixel as JPEG": (saved(ONE, "JPEG", quality=95), (LEFT, LEFT)),
    "a single row": (saved(ROW, "JPEG", **FINE), C),
}


@pytest.mark.fault(
    "images: wrong ending, CMYK, palette, 16 bits, grey, alpha, EXIF rotation, animation, one pixel wide",
    "used as defined: alpha dropped, 16 bits scaled to 8, rotation not applied, the first picture; by both decoders",
)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", USED)
def test_unusual_images_are_used_as_defined(tmp_path, monkeypatch, name):
    file, (write, colours), calls, decode = tmp_path / "a.jpg", USED[name], [], torchvision.io.decode_jpeg
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda *a, **k: calls.append(name) or decode(*a, **k))
    write(file)
    with Image.open(file) as image:
        assert checked(file) == image.size
        plain = image.format == "JPEG" and image.mode != "CMYK"
    for way in (by_pillow, by_torchvision):
        frame = way(file)
        assert frame.shape == (3, SIDE, SIDE) and frame.dtype == torch.uint8
        for column, colour in ((1, colours[0]), (-2, colours[1])):
            found = frame[:, :, column].float().mean(dim=1)
            np.testing.assert_allclose(found, colour, atol=5, err_msg=f"{way.__name__}, column {column}")
    assert len(calls) == plain  # torchvision decodes plain JPEGs alone


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
    "refused by name before it is decoded, with the limit; torchvision never sees it",
)
@pytest.mark.parametrize("way", WAYS)
def test_images_beyond_pillows_limit(tmp_path, monkeypatch, way):
    for owner, decoder in ((torchvision.io, "decode_jpeg"), (Image.Image, "convert")):
        monkeypatch.setattr(owner, decoder, lambda *_, **__: pytest.fail("it was decoded"))
    for data in (png_of(30_000, 30_000), jpeg_of(30_000, 30_000, tmp_path)):
        (tmp_path / "a.jpg").write_bytes(data)
        with pytest.raises(DatasetError, match=r"a\.jpg: an image that does not decode \(.* limit of 178956970 pixels"):
            WAYS[way](tmp_path / "a.jpg")


@pytest.mark.filterwarnings("error")
def test_the_limit_is_pillows_own(tmp_path, monkeypatch):
    """To the pixel, twice MAX_IMAGE_PIXELS; from once as many on Pillow would warn."""
    NOISE.save(tmp_path / "a.jpg")
    for less in (0, 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 2 - less)
        for way in WAYS.values():
            if less:
                with pytest.raises(DatasetError, match=rf"a\.jpg: .*limit of {WIDTH * HEIGHT - 2} pixels"):
                    way(tmp_path / "a.jpg")
            else:
                way(tmp_path / "a.jpg")


REFUSED = {
    "text": (lambda file: file.write_text("no image, but a letter\n" * 100), "no image of a known format"),
    "nothing": (lambda file: file.write_bytes(b""), "no image of a known format"),
    "a header alone": (lambda file: file.write_bytes(b"\xff\xd8\xff"), ""),
    "32 bits": (saved(Image.fromarray(halves(0, 1, dtype="float32")), "TIFF"), "pixels of 32 bits"),
    "a program for a printer": (saved(COLOUR, "EPS"), "no image of a known format"),
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
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_images_cut_off_at_every_tenth(tmp_path, form):
    NOISE.save(tmp_path / "a.jpg", format=form)
    whole = (tmp_path / "a.jpg").read_bytes()
    for tenth in range(10):
        (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * tenth // 10])
        for name, way in WAYS.items():
            with pytest.raises(DatasetError, match=r"a\.jpg: an image that does not decode \(.*unpack"):
                assert way(tmp_path / "a.jpg") is None, (tenth, name)


@pytest.mark.fault("a photograph whose end was overwritten by zeros", "refused by notebook 01, though decoders take it")
def test_a_jpeg_whose_end_is_zeros(tmp_path):
    NOISE.save(tmp_path / "a.jpg", quality=95)
    whole = (tmp_path / "a.jpg").read_bytes()
    for share in (0.1, 0.5, 0.9):
        kept = len(whole) - int(share * (len(whole) - 700))  # not of the header
        (tmp_path / "a.jpg").write_bytes(whole[:kept] + bytes(len(whole) - kept))
        with pytest.raises(DatasetError, match=r"a\.jpg: an image that does not decode \(.*unpack"):
            checked(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(whole + b"what a camera appends")
    assert checked(tmp_path / "a.jpg") == NOISE.size


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for way in (by_pillow, by_torchvision):
        with pytest.raises(DatasetError, match=r"a\.jpg: cannot be read \(No such file or directory\); make it read"):
            way(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(DatasetError, match=r"a\.jpg: missing image"):
        checked(tmp_path / "a.jpg")


# Masks: the same care.


def mask(file: Path) -> list:
    found = Metadata(["x"], {"x": 0}, {}, {}, {"x": [(file.name, "")]})
    (pixels,) = masks.of_openimages(found, file.parent, ["x"], 2)
    return pixels.tolist()


def test_masks_of_16_bits_and_beyond_pillows_limit(tmp_path):
    Image.fromarray(halves(255, 256, size=(2, 2), dtype=np.uint16)).save(tmp_path / "m.png")
    assert mask(tmp_path / "m.png") == [[0, 1], [0, 1]]  # what is 1 of 255 in 8 bits is an object
    (tmp_path / "m.png").write_bytes(png_of(30_000, 30_000))
    with pytest.raises(DatasetError, match=r"m\.png: a mask that does not decode \(.*limit of \d+"):
        mask(tmp_path / "m.png")
