"""Parse text, paths and numbers that anybody may have written, and say what is wrong with them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

LARGEST = 2**31  # no coordinate, side or class reaches it
LONGEST_TEXT, LONGEST_XML = 1 << 30, 1 << 20  # bytes: far more than a list of every image there is, or an image's boxes
LONGEST_PATH, LONGEST_NAME = 1000, 200  # bytes: what file systems take, less a root and what `files` adds
LITTER = ("thumbs.db", "desktop.ini", "__macosx")  # left by file managers and archives, as what begins with a dot
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)

REMEDY = "correct it, or unpack the data set again (notebook 01 says how to get it)"
SAID = 400  # characters of a message about what a file says


class DatasetError(ValueError):
    """The data on disk are not what their layout promises; names the file (and line) or value, and the remedy."""


def failure(root: str | os.PathLike, where: str, problem: str, remedy: str = REMEDY) -> DatasetError:
    """`where` is "file:line", relative to the root. One line, whatever the file says, and not a long one."""
    problem = problem if len(problem) <= SAID else f"{problem[:SAID]}…"
    message = f"{Path(root) / where}: {problem}; {remedy}"
    return DatasetError(shown(message))


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


def is_litter(name: str) -> bool:
    """Whether a file or folder of that name is never counted: one of LITTER, or it begins with a dot."""
    return name.startswith(".") or name.lower() in LITTER


def as_jpeg(name: str) -> str:
    """A file's name, with .JPEG for an ending that says the same, such as .jpg."""
    stem, ending = os.path.splitext(name)
    return f"{stem}.JPEG" if ending.lower() in (".jpeg", ".jpg") else name


def names_in(root: Path, folder: str) -> dict[str, str]:
    """What a folder holds but for litter, sorted: each name as `as_jpeg` has it -> on disk; empty without the folder.

    Raises:
        DatasetError: two of them are the same but for a JPEG's ending.
    """
    names: dict[str, str] = {}
    for name in sorted(os.listdir(root / folder)) if (root / folder).is_dir() else ():
        if is_litter(name):
            continue
        if (other := names.setdefault(as_jpeg(name), name)) != name:
            raise failure(root, f"{folder}/{name}", f"{other} beside it has the same id", "remove one of the two")
    return names


def found_in(names: Callable[[str], dict[str, str]], listed: str, *folders: str) -> str:
    """The path of a file that a list names: in the first of the folders that has it, else in the first.

    Args:
        names: `names_in` of a folder.
    """
    key = as_jpeg(listed)
    having = (f"{folder}/{names(folder)[key]}" for folder in folders if key in names(folder))
    return next(having, f"{folders[0]}/{listed}")
