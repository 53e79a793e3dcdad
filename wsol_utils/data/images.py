"""Decode photographs that anybody may have made: a few formats, a limit on their size, 8 bits, no alpha."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wsol_utils.data.layouts import REMEDY, failure

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others: Pillow hands EPS to another program
DECODERS = ("pillow", "torchvision")  # what decodes them, see `loader.Loader`


def decode(
    file: Path, listed: str = "", scaled: bool = False, upright: bool = False
) -> tuple[tuple[int, int], Image.Image]:
    """(width, height) and the image in RGB; `scaled` decodes a JPEG at 1/8 of its size, fast, yet to its end.

    Args:
        upright: turn the image as its EXIF orientation says, as cameras and viewers do; the annotations of the data
            sets do not. The size stays that of the file.

    Raises:
        DatasetError: it does not decode, or cannot be read.
        MemoryError: there is not enough.
    """
    try:
        with opened(file) as image:
            size = image.size
            if scaled:
                image.draft(None, (1, 1))
            decoded = eight_bits(image).convert("RGB")
            if scaled and image.format == "JPEG" and _lacks_its_end(file.read_bytes()):
                raise ValueError("its last part is missing")
            return size, ImageOps.exif_transpose(decoded) if upright else decoded
    except MemoryError:
        raise  # not the image's fault
    except Exception as error:  # Pillow's decoders raise many kinds
        if isinstance(error, OSError) and error.errno:
            remedy = "make it readable, then run again"
            raise failure(file.parent, file.name, f"cannot be read ({cause(error)}){listed}", remedy) from error
        limit = isinstance(error, Image.DecompressionBombError)
        remedy = "scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS" if limit else REMEDY
        problem = f"an image that does not decode ({cause(error)}){listed}"
        raise failure(file.parent, file.name, problem, remedy) from error


def _lacks_its_end(jpeg: bytes) -> bool:
    """Whether no end mark follows the last scan: a decoder takes zeros in its place for a grey picture."""
    return jpeg.rfind(b"\xff\xd9") < jpeg.rfind(b"\xff\xda")


def opened(file: Path) -> Image.Image:
    """An image of which only the header has been read, to be closed. EXIF orientation is not applied to it.

    Raises:
        Exception: Pillow's of many kinds, if it is of no format in `FORMATS`, or has more than twice as many pixels as
            PIL.Image.MAX_IMAGE_PIXELS: 179 millions. From the half of that on Pillow would warn.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=FORMATS)


def eight_bits(image: Image.Image) -> Image.Image:
    """The image with at most 8 bits a channel: of 16 bits the upper 8, where Pillow cuts off all that is above 255.

    A palette's or colour's transparency is forgotten, so that alpha, too, is dropped and nothing blended.

    Raises:
        ValueError: pixels of 32 bits or floating point, of which nobody knows what is white.
    """
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits; save it with 8 or 16 bits")
    return image


def cause(error: BaseException | None) -> str:
    """What went wrong, in one line that names no folder."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
