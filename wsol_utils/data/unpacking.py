"""Archives unpacked whole or not at all, and nothing but files and folders within what they may take."""

import glob
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

from wsol_utils.common import files
from wsol_utils.data.layouts import DatasetError, failure

MIB = 1 << 20
DEEPEST = 16  # folders of an archive, one in another
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
    UnicodeError,
)
Member = tuple[str, bool, Callable[[], IO[bytes]]]  # name, whether it is a folder, how to open it


def unpack(
    archive: str | os.PathLike, folder: str | os.PathLike, inside: str, most_files: int, most_bytes: int
) -> Path:
    """Unpack what a .tgz, .tar.gz or .zip has below `inside` to `folder`/`inside`, whole or not at all.

    Of the archive only names and bytes are used, never owners, permissions or links. Nobody else may be unpacking
    the same there.

    Args:
        most_files: how many files and folders the archive may hold.
        most_bytes: how many bytes they may have, counted as they are written.
    Returns:
        `folder`/`inside`.
    Raises:
        DatasetError: the archive is cut off or broken, or holds what none of ours does; nothing of it is left.
        OSError: it could not be written; nothing of it is left.
    """
    archive, target = Path(archive), Path(folder) / inside
    for left in target.parent.glob(f".{glob.escape(inside)}.*.part"):  # of a killed process
        shutil.rmtree(left)
    if target.exists():
        raise DatasetError(f"{target}: is there already; remove it to unpack {archive.name} again")
    hidden = files.beside(target)
    try:
        archive.open("rb").close()  # its own errors are not those of the folder
        with files.explained(target):
            hidden.mkdir(parents=True)
            _extract(archive, hidden, most_files, most_bytes)
            if not (hidden / inside).exists():
                raise _refusal(archive, f"holds no {inside}")
            files.all_to_disk()
            os.replace(hidden / inside, target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return target


def _extract(archive: Path, hidden: Path, most_files: int, most_bytes: int) -> None:
    """Write the members of an archive below a folder, within both bounds."""
    if not archive.name.endswith((".zip", ".tgz", ".tar.gz")):
        raise _refusal(archive, "neither a .zip nor a .tgz")
    written = 0
    try:
        for count, (name, is_folder, opened) in enumerate(_MEMBERS[archive.suffix](archive), start=1):
            if count > most_files:
                raise _refusal(archive, f"holds more than {most_files} files")
            path = hidden.joinpath(*_parts(archive, name))
            try:
                (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
                if is_folder:
                    continue
                with opened() as source, open(path, "xb") as out:
                    while chunk := source.read(MIB):
                        written += len(chunk)
                        if written > most_bytes:
                            raise _refusal(archive, f"holds more than {most_bytes} bytes")
                        out.write(chunk)
            except (FileExistsError, NotADirectoryError) as error:
                raise _refusal(archive, f"holds {name[:80]!r} twice, or in a file's place") from error
    except BROKEN as error:
        raise _refusal(archive, f"cut off, or no {archive.suffix} archive ({error})") from error


def _tar_members(archive: Path) -> Iterator[Member]:
    with gzip.open(archive) as unzipped:
        stream = _Bounded(unzipped)
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as opened:
            for member in opened:
                if not (member.isfile() or member.isdir()) or member.issparse():
                    raise _refusal(archive, f"holds {member.name[:80]!r}, a link, a device or a sparse file")
                stream.left = member.size + MIB
                content = cast(Callable[[], IO[bytes]], partial(opened.extractfile, member))  # no link, so not None
                yield member.name, member.isdir(), content
            while stream.read(MIB):  # to gzip's own checksum
                pass
            if stream.last > opened.offset or stream.position == opened.offset:
                raise tarfile.ReadError("no end mark where the last file ends")


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            name = member.orig_filename
            if member.flag_bits & 1:
                raise _refusal(archive, f"holds {name[:80]!r}, encrypted")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(archive, f"holds {name[:80]!r}, a link or a device")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refusal(archive, f"holds {name[:80]!r}, packed in a way that can grow without bound")
            yield name, member.is_dir(), partial(opened.open, member)


_MEMBERS = {".zip": _zip_members, ".tgz": _tar_members, ".gz": _tar_members}


class _Bounded:
    """What tarfile reads from: no header is longer than 1 MiB, and the last byte that is not 0 is known."""

    def __init__(self, opened: gzip.GzipFile) -> None:
        self.opened, self.left, self.position, self.last = opened, MIB, 0, 0

    def read(self, size: int) -> bytes:
        data = self.opened.read(size)
        if zeros_left := len(data.rstrip(b"\0")):
            self.last = self.position + zeros_left
        self.position += len(data)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError("a header, or an end, of more than 1 MiB")
        return data


def _parts(archive: Path, name: str) -> list[str]:
    """The parts of a member's path, once it is sure to stay below the folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or any(sign in name for sign in "\\:\0"):
        raise _refusal(archive, f"holds {name[:80]!r}, which leads out of its folder")
    if len(parts) > DEEPEST:
        raise _refusal(archive, f"holds {name[:80]!r}, folders more than {DEEPEST} deep")
    return parts


def _refusal(archive: Path, problem: str) -> DatasetError:
    remedy = "nothing was unpacked: remove it and download it again, from the source that data/downloads.csv names"
    return failure(archive.parent, archive.name, problem, remedy)
