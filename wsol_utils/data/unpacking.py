"""Archives unpacked whole or not at all, and nothing but files and folders; their checksums were compared before."""

import glob
import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from wsol_utils.common import files
from wsol_utils.data.layouts import DatasetError, failure

BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError)


def unpack(archive: str | os.PathLike, folder: str | os.PathLike, inside: str) -> Path:
    """Unpack what a .zip, or a tar however it is packed, has below `inside` to `folder`/`inside`, whole or not at all.

    No bound is set to what it holds: the caller has compared its checksum. Nobody else may be unpacking the same there.

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
        with files.explained(target):
            hidden.mkdir(parents=True)
            _extract(archive, hidden)
            if not (hidden / inside).exists():
                raise _refusal(archive, f"holds no {inside}")
            files.all_to_disk()
            os.replace(hidden / inside, target)
    except BROKEN as error:
        raise _refusal(archive, f"cut off, or no {archive.suffix} archive ({error})") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return target


def _extract(archive: Path, hidden: Path) -> None:
    """Write the members of an archive below a folder, each once it is sure to stay there."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.infolist():  # a link in a zip becomes a file that holds its target's name
                _check(archive, member.filename)
                zipped.extract(member, hidden)
    else:
        with tarfile.open(archive) as opened:
            # no owners, no setuid; Python 3.11.0 to 3.11.3 has no such filter, and what leads out is refused anyway
            opened.extraction_filter = getattr(tarfile, "data_filter", lambda entry, path: entry)
            for entry in opened:
                _check(archive, entry.name, plain=entry.isfile() or entry.isdir())
                opened.extract(entry, hidden)


def _check(archive: Path, name: str, plain: bool = True) -> None:
    path = PureWindowsPath(name)  # knows every way to lead out, "C:x" and "..\\x" too
    if path.anchor or ".." in path.parts:
        raise _refusal(archive, f"holds {name[:80]!r}, which leads out of its folder")
    if not plain:
        raise _refusal(archive, f"holds {name[:80]!r}, a link or a device")


def _refusal(archive: Path, problem: str) -> DatasetError:
    remedy = "nothing was unpacked: remove it and download it again, from the source that data/downloads.csv names"
    return failure(archive.parent, archive.name, problem, remedy)
