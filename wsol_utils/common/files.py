"""Write files whole or not at all, whatever happens in between."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]  # of the repository, where relative paths start

SPACE = "free some space there"
PLACE = "make its folder writable, or name another one (RESULTS for a run)"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), PLACE),
}


@contextmanager
def written(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, to be written in the block; it takes that name once its bytes are on the disk.

    It may become a file or a folder of files. A reader sees the old one or the new one, never a part. An error leaves
    the old one and nothing else. Several processes may write the same: the last one's stays.

    Args:
        durable: whether the file survives a power cut from here on; otherwise only that nobody reads a part.

    Raises:
        OSError: naming the file, the cause and the remedy.
    """
    path = Path(path)
    temporary = beside(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)  # of a killed process of the same number
        try:
            yield temporary
            put(temporary, path, durable)
        finally:
            remove(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, with the line ends that the text has, as `written` does."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def is_cut_off(path: str | os.PathLike) -> bool:
    """Whether a text file ends within a line, or is empty."""
    with open(path, "rb") as opened:
        opened.seek(max(os.path.getsize(path) - 1, 0))
        return opened.read() != b"\n"


def put(temporary: Path, path: Path, durable: bool = True) -> None:
    """Rename a file or a folder of files that is complete, once its bytes are on the disk.

    A folder of that name moves out of the way first, and goes: a reader finds the old one, the new one or, for that
    instant, none.
    """
    if durable:
        for part in [*temporary.glob("*"), temporary]:
            _to_disk(part)
    if temporary.is_dir():
        _put_folder(temporary, path)
    else:
        os.replace(temporary, path)
    if durable:
        _to_disk(path.parent)  # where the name is kept


def beside(path: Path) -> Path:
    """A name in the same folder for what becomes `path`: hidden, this process's own, and known to `sweep`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sweep(folder: Path) -> None:
    """Remove what processes left below a folder that are no more; those of this machine that still write are let be."""
    for left in folder.rglob(".*.part"):
        process = left.name.removesuffix(".part").rpartition(".")[2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            remove(left)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing where there is none."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """The checksum of a file, which is read a part at a time."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """An error of the operating system while `path` is written says so, and what can be done.

    Raises:
        OSError: of the same kind.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES or str(path) in str(error.strerror):  # it says so already
            raise
        remedy = f"{path} could not be written ({error.strerror}): {REMEDIES[error.errno]}, then run again"
        raise OSError(error.errno, f"{remedy}; what was finished is kept") from error


def all_to_disk() -> None:
    """Everything that any process has written so far, where the system can: for a folder of many small files."""
    if hasattr(os, "sync"):
        os.sync()


def _put_folder(temporary: Path, path: Path) -> None:
    old = beside(path.with_name(f"{path.name}.old"))
    try:
        while temporary.exists():
            remove(old)
            with suppress(FileNotFoundError):  # there was none, or another process was faster
                os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process has put its own there
                    raise
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)  # an error leaves the old one
        remove(old)


def _to_disk(path: Path) -> None:
    """Force the bytes of a file to the disk; the names in a folder, where the system knows such a thing."""
    folder = path.is_dir()
    with suppress(OSError) if folder else nullcontext():
        opened = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
