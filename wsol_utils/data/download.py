"""Fetch and verify the downloads of data/downloads.csv; one that was cut off goes on where it stopped."""

import csv
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock
from tqdm.auto import tqdm
from urllib3.exceptions import HTTPError  # what the bytes of a response raise, below requests

from wsol_utils.common import files
from wsol_utils.common.bars import QUIET
from wsol_utils.data import unpacking
from wsol_utils.data.layouts import DatasetError, failure

TABLE = files.ROOT / "data" / "downloads.csv"
TIMEOUT = 60.0  # seconds without a byte
AT_ONCE = 1 << 16  # bytes; what a cut can cost


@dataclass(frozen=True)
class Download:
    """A row of data/downloads.csv; data/README.md says what the columns hold."""

    name: str
    what: str
    url: str
    bytes: int
    algorithm: str
    checksum: str
    stated_by: str
    verified_here: str
    unpacks_to: str
    data_root: str


def table() -> dict[str, Download]:
    """name -> row of data/downloads.csv; a size that is not stated is 0."""
    with open(TABLE, encoding="utf-8", newline="") as opened:
        rows: list[dict[str, Any]] = list(csv.DictReader(opened))
    return {row["name"]: Download(**row | {"bytes": int(row["bytes"] or 0)}) for row in rows}


def find(name: str) -> Download:
    """The row of that name.

    Raises:
        DatasetError: there is none.
    """
    rows = table()
    if name not in rows:
        raise DatasetError(f"unknown download {name!r}; data/downloads.csv knows {', '.join(rows)}")
    return rows[name]


def get(name: str, folder: str | os.PathLike, keep_archive: bool = True) -> Path:
    """Fetch a download and unpack it; does nothing where that was done before.

    Args:
        keep_archive: whether the archive stays beside what was unpacked.
    Returns:
        The folder or file that the table promises.
    Raises:
        DatasetError, OSError: as `fetch` and `unpacking.unpack` do.
    """
    row = find(name)
    target = Path(folder) / row.unpacks_to
    with files.explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / ".downloads.lock").acquire()  # of several processes one fetches, others wait
    with lock:
        if row.unpacks_to == row.name:
            return fetch(name, folder)
        if not target.exists():
            archive = fetch(name, folder)
            unpacking.unpack(archive, folder, row.unpacks_to)
            if not keep_archive:
                archive.unlink()
    return target


def fetch(name: str, folder: str | os.PathLike) -> Path:
    """Download a file into a folder, or verify the one that is there.

    It has a hidden name until its size and checksum are right. What an interruption leaves there is gone on with, where
    the server can do that. Nobody else may be fetching the same file into the same folder: `get` waits for them.

    Returns:
        The file.
    Raises:
        DatasetError: the network failed, the file is not what the table says, or it must be fetched by hand.
        OSError: it could not be written.
    """
    row = find(name)
    path = Path(folder) / row.name
    part = path.with_name(f".{path.name}.partial")  # unlike files.beside: the next process finds it
    stamp = part.with_name(f"{part.name}.stamp")  # the server's mark of the file that this is a part of
    if not row.checksum:
        remedy = f"fetch it by hand, unpack it and give the folder with {row.unpacks_to} as DATA_ROOT"
        raise DatasetError(f"{row.name}: nobody states a checksum to verify it by, {row.what}; {remedy}")
    if path.exists():
        if told := difference(path, row):
            raise DatasetError(f"{path}: not the file that {row.url} gives: {told}; remove it and run again")
        return path
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(row, part, stamp)
        told = difference(part, row)
        stamp.unlink(missing_ok=True)
        if told:
            part.unlink()
            remedy = "what came was removed: run again, and if this comes again ask the publisher"
            raise DatasetError(f"{path}: {row.url} gave another file: {told}; {remedy}")
        files.put(part, path)
    return path


def difference(path: Path, row: Download) -> str:
    """How a file differs from the table, in size or else in checksum; "" where it does not."""
    expected, found = f"{row.bytes} bytes", f"{path.stat().st_size} bytes"
    if found == expected:
        with open(path, "rb") as opened:
            digest = hashlib.file_digest(opened, partial(hashlib.new, row.algorithm, usedforsecurity=False))
        expected, found = f"{row.algorithm} {row.checksum}", f"{row.algorithm} {digest.hexdigest()}"
    return "" if found == expected else f"expected {expected} ({row.stated_by}), found {found}"


def _download(row: Download, part: Path, stamp: Path) -> None:
    """Append to the partial file what it lacks of row.bytes, and never more."""
    have = part.stat().st_size if part.exists() else 0
    if have == row.bytes:
        return
    headers = {"User-Agent": "Mozilla/5.0 (compatible; wsol_utils)", "Accept-Encoding": "identity"}
    if 0 < have < row.bytes:
        headers["Range"] = f"bytes={have}-"
        if stamp.exists() and (mark := stamp.read_text(encoding="utf-8")):
            headers["If-Range"] = mark  # a file that has changed comes whole
    try:
        with requests.get(row.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code not in (requests.codes.ok, requests.codes.partial):
                raise _failure(row, part, f"the server answers {response.status_code} {response.reason}")
            have = have if "Range" in headers and response.status_code == requests.codes.partial else 0
            if (offered := response.raw.length_remaining) not in (None, row.bytes - have):
                if have:
                    part.unlink()  # the next call starts over
                raise _failure(row, part, f"{offered} bytes are offered where {row.bytes - have} are expected")
            if not have:
                tag, date = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
                stamp.write_text(tag if tag.startswith('"') else date, encoding="utf-8")  # no weak tag
            bar = tqdm(total=row.bytes, initial=have, desc=row.name, unit="B", unit_scale=True, disable=QUIET)
            with bar, open(part, "ab" if have else "wb") as out:
                for chunk in response.raw.stream(AT_ONCE, decode_content=False):  # as sent: a .tgz is no "encoding"
                    have += out.write(chunk[: row.bytes - have])
                    bar.update(len(chunk))
                    if have == row.bytes:
                        return
    except (requests.RequestException, HTTPError) as error:
        raise _failure(row, part, str(error)) from error
    raise _failure(row, part, "the connection ended")


def _failure(row: Download, part: Path, problem: str) -> DatasetError:
    kept = f"{part.stat().st_size if part.exists() else 0} of {row.bytes} bytes are kept"
    remedy = f"{kept}: run again, and it goes on from there, or fetch it by hand into {part.parent} and run again"
    return failure(part.parent, row.name, f"{row.url}: {problem}", f"{remedy}, which verifies it")
