"""Read texts, numbers and paths that other people wrote, and word the errors about them."""

import os
from pathlib import Path

LARGEST = 2**31  # no coordinate, side or class reaches it
LITTER = ("thumbs.db", "desktop.ini", "__macosx")  # file managers and archives leave these, and names with a dot
REMEDY = "correct it, or unpack the data set again (notebook 01 says how to get it)"


class DatasetError(ValueError):
    """The data on disk are not what their layout promises; names the file (and line) or value, and the remedy."""


def failure(root: str | os.PathLike, where: str, problem: str, remedy: str = REMEDY) -> DatasetError:
    """Word an error in one line; `where` is "file" or "file:line" below the root."""
    return DatasetError(shown(f"{Path(root) / where}: {problem:.400}; {remedy}"))  # a file may be one long line


def plain_text(file: Path) -> str:
    """Read a text in UTF-8, whatever ends its lines, with or without a byte-order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not in UTF-8; names the line.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not a text in UTF-8 (line {line}: {error.reason})") from error


def shown(text: str) -> str:
    """Escape what is not printable, so that a text, or the name of a file, fits in one line of a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def below(path: str) -> str:
    """Return an id or a path once it is sure to stay below the folder that it is looked up in.

    Raises:
        ValueError: it leaves that folder, is empty, or holds control characters.
    """
    parts = path.replace("\\", "/").split("/")
    if not parts[0] or not path.isprintable() or ".." in parts or os.path.isabs(path):
        raise ValueError(f"{path!r} is no path below a folder: it leaves it, is empty or holds control characters")
    return path


def number(text: str) -> float:
    """Parse a number smaller than 2^31.

    Raises:
        ValueError: it is something else, such as NaN or infinity.
    """
    value = float(text)
    if not abs(value) < LARGEST:
        raise ValueError(f"no number between -2^31 and 2^31: {text!r}")
    return value


def is_litter(name: str) -> bool:
    """Tell whether a file or folder is no part of a data set: its name is one of LITTER, or begins with a dot."""
    return name.startswith(".") or name.lower() in LITTER
