"""What is asked of a text that anybody may have written, and of the paths and numbers in it."""

import os
import re
from pathlib import Path

LARGEST = 2**31  # no coordinate, side or class reaches it
LONGEST_TEXT, LONGEST_XML = 1 << 30, 1 << 20  # bytes: far more than a list of every image there is, or an image's boxes
LONGEST_PATH, LONGEST_NAME = 1000, 200  # bytes: what file systems take, less a root and what `files` adds
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def plain_text(file: Path) -> str:
    """A text in UTF-8; its lines may end as Windows or old Macs have it, and a byte-order mark is left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else: the line and what is wrong with it.
    """
    if file.stat().st_size > LONGEST_TEXT:
        raise ValueError(f"{file.stat().st_size} bytes, of which {LONGEST_TEXT} at most are read")
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"not a text in UTF-8 (line {line}: byte 0x{data[error.start]:02x}, {error.reason})"
        raise ValueError(problem) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shown(text: str) -> str:
    """A text, or the name of a file, to be printed in a line: what is not printable is escaped, and nothing lost."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def below(path: str) -> str:
    """An id or a path, once it is sure to stay below the folder that it is looked up in.

    Raises:
        ValueError: if it leaves that folder, or is no name for a file.
    """
    parts = path.split("/")
    lengths = [len(part.encode(errors="replace")) for part in parts]
    if (
        not path
        or not path.isprintable()
        or len(path.encode(errors="replace")) > LONGEST_PATH
        or max(lengths) > LONGEST_NAME
    ):
        raise ValueError(f"{path!r} is no path below a folder: it is empty, too long or holds control characters")
    if "\\" in path or path.startswith("/") or os.path.isabs(path) or ".." in parts:
        raise ValueError(f"{path!r} is no path below a folder: it leaves it")
    return path


def number(text: str) -> float:
    """A decimal number in ASCII digits, as every program reads it, smaller than 2^31.

    Raises:
        ValueError: it is something else, such as NaN, infinity or Python's "1_000".
    """
    value = float(text) if len(text) <= 100 and NUMBER.fullmatch(text.strip()) else LARGEST
    if not abs(value) < LARGEST:
        raise ValueError(f"no number between -2^31 and 2^31: {text!r}")
    return value
