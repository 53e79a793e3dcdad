"""Decode photographs: a few formats, a limit on their size, 8 bits a channel, no alpha."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wsol_utils.data.text import failure

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others: Pillow hands EPS to another program
DECODERS = ("pillow", "torchvision")  # the choices of `loader.Loader`


def decode(file: Path, scaled: bool = False, upright: bool = False) -> tuple[tuple[int, int], Image.Image]:
    """Decode an image: its (width, height) in the file, and the image in RGB.

    Args:
        scaled: decode a JPEG at 1/8 of its size, which is fast, and refuse one whose end is missing.
        upright: turn the image as its EXIF orientation says, as cameras and viewers do; the annotations of the data
            sets do not.

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
        if getattr(error, "errno", None):
            problem, remedy = f"cannot be read ({cause(error)})", "make it readable, then run again"
            raise failure(file.parent, file.name, problem, remedy) from error
        raise failure(file.parent, file.name, f"an image that does not decode ({cause(error)})") from error


def _lacks_its_end(jpeg: bytes) -> bool:
    """Whether no end mark follows the last scan: decoders take zeros in its place for a grey picture."""
    return jpeg.rfind(b"\xff\xd9") < jpeg.rfind(b"\xff\xda")


def opened(file: Path) -> Image.Image:
    """Read the header of an image; the caller closes it. Its EXIF orientation is not applied.

    Raises:
        Exception: Pillow's of many kinds, if it is of no format in `FORMATS`, or has more than twice as many pixels as
            PIL.Image.MAX_IMAGE_PIXELS: 179 millions.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half of that on
        return Image.open(file, formats=FORMATS)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits a channel down to 8, where Pillow would cut off all values above 255, and forget transparency.

    Raises:
        ValueError: pixels of 32 bits or floating point, of which nobody knows what is white.
    """
    image.info.pop("transparency", None)  # of a palette or a colour: it is not blended, as alpha is not
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits; save it with 8 or 16 bits")
    return image


def cause(error: BaseException | None) -> str:
    """Say what went wrong in one line that names no folder."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
