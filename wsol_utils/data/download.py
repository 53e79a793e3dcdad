"""Fetch, verify and unpack the downloads of data/downloads.csv; one that was cut off goes on where it stopped."""

import hashlib
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import requests
from filelock import FileLock
from tqdm.auto import tqdm
from urllib3.exceptions import HTTPError  # what the bytes of a response raise, below requests

from wsol_utils.common import files
from wsol_utils.common.bars import QUIET
from wsol_utils.data.text import DatasetError, failure

TABLE = files.ROOT / "data" / "downloads.csv"
TIMEOUT = 60.0  # seconds without a byte
AT_ONCE = 1 << 16  # bytes; what a cut can cost

Row = Any  # named tuples, whose fields are the table's columns; data/README.md says what they hold


def table() -> dict[str, Row]:
    """Read data/downloads.csv: name -> row; a size that is not stated is 0."""
    rows = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    return {row.name: row for row in rows.assign(bytes=rows["bytes"].replace("", "0").astype(int)).itertuples(False)}


def find(name: str) -> Row:
    """Return the row of that name.

    Raises:
        DatasetError: there is none.
    """
    rows = table()
    if name not in rows:
        raise DatasetError(f"unknown download {name!r}; data/downloads.csv knows {', '.join(rows)}")
    return rows[name]


def get(name: str, folder: str | os.PathLike, keep_archive: bool = True) -> Path:
    """Fetch a download and unpack it; do nothing where that was done before.

    Args:
        keep_archive: whether the archive stays beside what was unpacked.
    Returns:
        The folder or file that the table promises.
    Raises:
        DatasetError: as `fetch` does.
        OSError: it could not be written; nothing half unpacked is left.
    """
    row, folder = find(name), Path(folder)
    target = folder / row.unpacks_to
    with files.explained(target):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".downloads.lock").acquire()  # of several processes one fetches, others wait
    with lock:
        if row.unpacks_to == row.name:
            return fetch(name, folder)
        if not target.exists():
            archive = fetch(name, folder)
            _unpack(archive, target)
            if not keep_archive:
                archive.unlink()
    return target


def fetch(name: str, folder: str | os.PathLike) -> Path:
    """Download a file into a folder, or verify the one that is there.

    The file has a hidden name until its size and checksum are right. The next call goes on with what an interruption
    leaves there, if the server sends parts of files. Two processes must not fetch the same file into the same folder at
    once; `get` makes the second one wait.

    Returns:
        The file.
    Raises:
        DatasetError: the network failed, the file is not what the table says, or it must be fetched by hand.
        OSError: it could not be written.
    """
    row = find(name)
    path = Path(folder) / row.name
    part = path.with_name(f".{path.name}.partial")  # unlike files.beside: the next process finds it
    if not row.checksum:
        remedy = f"fetch it by hand, unpack it and give the folder with {row.unpacks_to} as DATA_ROOT"
        raise DatasetError(f"{row.name}: nobody states a checksum to verify it by, {row.what}; {remedy}")
    if path.exists():
        if told := _difference(path, row):
            raise DatasetError(f"{path}: not the file that {row.url} gives: {told}; remove it and run again")
        return path
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(row, part)
        if told := _difference(part, row):
            part.unlink()
            remedy = "what came was removed: run again, and if this comes again ask the publisher"
            raise DatasetError(f"{path}: {row.url} gave another file: {told}; {remedy}")
        files.put(part, path)
    return path


def _difference(path: Path, row: Row) -> str:
    """Say how a file differs from the table, in size or else in checksum; "" where it does not."""
    expected, found = f"{row.bytes} bytes", f"{path.stat().st_size} bytes"
    if found == expected:
        with open(path, "rb") as opened:
            digest = hashlib.file_digest(opened, partial(hashlib.new, row.algorithm, usedforsecurity=False))
        expected, found = f"{row.algorithm} {row.checksum}", f"{row.algorithm} {digest.hexdigest()}"
    return "" if found == expected else f"expected {expected} ({row.stated_by}), found {found}"


def _download(row: Row, part: Path) -> None:
    """Append to the partial file what it lacks; whatever comes, its checksum is judged afterwards."""
    have = part.stat().st_size if part.exists() else 0
    if have >= row.bytes:
        return
    headers = {"User-Agent": "Mozilla/5.0 (compatible; wsol_utils)", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with requests.get(row.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            have = have if response.status_code == requests.codes.partial else 0
            if (offered := response.raw.length_remaining) not in (None, row.bytes - have):  # a page to sign in, say
                raise _failure(row, part, f"{offered} bytes are offered where {row.bytes - have} are expected")
            bar: dict[str, Any] = {"total": row.bytes, "initial": have, "desc": row.name, "disable": QUIET}
            with open(part, "ab" if have else "wb") as file, tqdm.wrapattr(file, "write", **bar) as out:
                while have < row.bytes and (sent := response.raw.read(AT_ONCE)):  # some servers send without end
                    have += out.write(sent)  # as it was sent: some servers call a .tgz an encoding
    except (requests.RequestException, HTTPError) as error:
        raise _failure(row, part, str(error)) from error
    if part.stat().st_size < row.bytes:
        raise _failure(row, part, "the connection ended")


def _failure(row: Row, part: Path, problem: str) -> DatasetError:
    kept = f"{part.stat().st_size if part.exists() else 0} of {row.bytes} bytes are kept"
    remedy = f"{kept}: run again, and it goes on from there, or fetch it by hand into {part.parent} and run again"
    return failure(part.parent, row.name, f"{row.url}: {problem}", f"{remedy}, which verifies it")


def _unpack(archive: Path, target: Path) -> None:
    """Unpack what an archive of the right checksum has under the target's name, whole or not at all."""
    for left in target.parent.glob(f".{target.name}.*.part"):  # of a killed process
        files.remove(left)
    hidden = files.beside(target)
    if not hasattr(tarfile, "data_filter"):
        raise DatasetError(f"{archive}: Python 3.11.4 or newer is needed to unpack it, or unpack it by hand")
    # what leads out of the folder is refused in a tar, and left out of a zip
    options: dict[str, Any] = {} if archive.suffix == ".zip" else {"filter": "data"}
    try:
        with files.explained(target):
            shutil.unpack_archive(archive, hidden, **options)
            files.all_to_disk()
            files.put(hidden / target.name, target, durable=False)
    finally:
        files.remove(hidden)
