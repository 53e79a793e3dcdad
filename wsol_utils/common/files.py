"""Write files whole or not at all."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]  # of the repository, where relative paths start

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space there"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "make its folder writable, or name another one (RESULTS for a run)",
    ),
}


@contextmanager
def written(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """Give the block a temporary path beside `path`; what it writes there takes the name `path` once it is complete.

    The block may write a file or a folder of files. A reader sees the old one or the new one, never a part of it. An
    error leaves the old one and nothing else. If several processes write the same path, the last one wins.

    Args:
        durable: whether to force the bytes to the disk first, so that they survive a power cut.

    Raises:
        OSError: naming the file, the cause and the remedy.
    """
    path = Path(path)
    temporary = beside(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)  # a killed process of the same number may have left it
        try:
            yield temporary
            put(temporary, path, durable)
        finally:
            remove(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, its line ends unchanged, as `written` does."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def is_cut_off(path: str | os.PathLike) -> bool:
    """Tell whether a text file ends within a line or is empty."""
    with open(path, "rb") as opened:
        opened.seek(max(os.path.getsize(path) - 1, 0))
        return opened.read() != b"\n"


def put(temporary: Path, path: Path, durable: bool = True) -> None:
    """Give a complete file, or folder of files, the name `path`; its bytes go to the disk first.

    A folder that has this name gives way first. A reader finds the old one, the new one or, for an instant, none.
    """
    if durable:
        for part in [*temporary.glob("*"), temporary]:
            _to_disk(part)
    if temporary.is_dir():
        _put_folder(temporary, path)
    else:
        os.replace(temporary, path)
    if durable:
        _to_disk(path.parent)  # it holds the name


def beside(path: Path) -> Path:
    """The hidden name, in the same folder, of what this process writes for `path`; `sweep` knows it."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sweep(folder: Path) -> None:
    """Remove what killed processes left below a folder, but not what living ones of this machine are writing."""
    for left in folder.rglob(".*.part"):
        process = left.name.removesuffix(".part").rpartition(".")[2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            remove(left)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents, if there is one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """The checksum of a file."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Add the file and the remedy to the operating system's errors while `path` is written.

    Raises:
        OSError: of the same kind.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES or str(path) in str(error.strerror):  # it names both already
            raise
        remedy = f"{path} could not be written ({error.strerror}): {REMEDIES[error.errno]}, then run again"
        raise OSError(error.errno, f"{remedy}; what was finished is kept") from error


def all_to_disk() -> None:
    """Force to the disk whatever any process has written: quicker than `put` for a folder of many small files."""
    if hasattr(os, "sync"):  # not on Windows
        os.sync()


def _put_folder(temporary: Path, path: Path) -> None:
    old = beside(path.with_name(f"{path.name}.old"))
    while temporary.exists():
        remove(old)
        with suppress(FileNotFoundError):  # there is none, or another process has just moved it
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # these: another process has just put its own there
                raise
    remove(old)


def _to_disk(path: Path) -> None:
    folder = path.is_dir()
    with suppress(OSError) if folder else nullcontext():  # Windows does not open folders
        opened = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
