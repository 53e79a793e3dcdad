"""The downloads that the project knows, data/downloads.csv: fetched so that a cut costs little, and verified."""

import csv
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from wsol_utils.common import files
from wsol_utils.common.bars import QUIET
from wsol_utils.data import unpacking
from wsol_utils.data.layouts import DatasetError, failure

TABLE = files.ROOT / "data" / "downloads.csv"
TIMEOUT = 60.0  # seconds without a byte
MIB = 1 << 20


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
    files: int
    unpacked_bytes: int
    data_root: str


def table() -> dict[str, Download]:
    """name -> row of data/downloads.csv; a number that is not stated is 0."""
    with open(TABLE, encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    numbers = ("bytes", "files", "unpacked_bytes")
    typed: list[dict[str, Any]] = [row | {key: int(row[key] or 0) for key in numbers} for row in rows]
    return {row["name"]: Download(**row) for row in typed}


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
            unpacking.unpack(archive, folder, row.unpacks_to, row.files, row.unpacked_bytes)
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
    if path.exists():
        if told := difference(path, row):
            raise DatasetError(
                f"{path}: not the file that {row.url or row.what} gives: {told}; remove it and run again"
            )
    elif row.url:
        part = path.with_name(f".{path.name}.partial")  # unlike files.beside: the next process finds it
        with files.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _download(row, part)
                if told := difference(part, row):
                    part.unlink()
                    remedy = "what came was removed: run again, and if this comes again ask the publisher"
                    raise DatasetError(f"{path}: {row.url} gave another file: {told}; {remedy}")
                files.put(part, path)
            finally:
                if not part.exists():
                    _stamp(part).unlink(missing_ok=True)
    else:
        remedy = f"fetch it by hand, unpack it and give the folder with {row.unpacks_to} as DATA_ROOT"
        raise DatasetError(f"{row.name}: has no address to fetch it from, {row.what}; {remedy}")
    if not row.checksum:
        print(f"{path}: could not be verified: nobody states a checksum", file=sys.stderr)
    return path


def difference(path: Path, row: Download) -> str:
    """How a file differs from the table, in size or else in checksum; "" where it does not."""
    expected, found = f"{row.bytes} bytes", f"{path.stat().st_size} bytes"
    if not row.bytes:
        return ""
    if row.checksum and found == expected:
        with open(path, "rb") as opened:
            digest = hashlib.file_digest(opened, partial(hashlib.new, row.algorithm, usedforsecurity=False))
        expected, found = f"{row.algorithm} {row.checksum}", f"{row.algorithm} {digest.hexdigest()}"
    return "" if found == expected else f"expected {expected} ({row.stated_by}), found {found}"


def _download(row: Download, part: Path) -> None:
    """Append to the partial file what it lacks of row.bytes, and never more."""
    have = part.stat().st_size if part.exists() else 0
    if have == row.bytes:
        return
    headers = {"User-Agent": "Mozilla/5.0 (compatible; wsol_utils)"}  # some hosts refuse urllib's own name
    if 0 < have < row.bytes:
        headers["Range"] = f"bytes={have}-"
        if _stamp(part).exists() and (stamp := _stamp(part).read_text(encoding="latin-1")):
            headers["If-Range"] = stamp  # a file that has changed comes whole
    try:
        response = _opener().open(urllib.request.Request(row.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            part.unlink()
            return _download(row, part)
        raise _failure(row, part, f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _failure(row, part, f"no answer ({getattr(error, 'reason', error)})") from error
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _failure(row, part, "the server sends another part than it was asked for")
        if response.length not in (None, row.bytes - have):
            if have:
                part.unlink()
            raise _failure(row, part, f"{response.length} bytes are offered where {row.bytes - have} are expected")
        bar = tqdm(total=row.bytes, initial=have, desc=row.name, unit="B", unit_scale=True, disable=QUIET)
        with bar, open(part, "ab" if have else "wb") as out:
            if not have:
                tag = response.headers.get("ETag", "")
                date = response.headers.get("Last-Modified", "")
                _stamp(part).write_text(tag if tag.startswith('"') else date, encoding="latin-1")  # no weak tag
            while have < row.bytes:
                try:
                    chunk = response.read1(min(MIB, row.bytes - have))
                except (OSError, http.client.HTTPException) as error:
                    raise _cut(row, part, have, str(error)) from error
                if not chunk:
                    raise _cut(row, part, have, "the connection ended")
                out.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))


def _opener() -> urllib.request.OpenerDirector:
    """Knows http and https alone, so that no redirect leads to file: or ftp:."""
    opener, known = urllib.request.OpenerDirector(), urllib.request
    for handler in (
        known.ProxyHandler, known.UnknownHandler, known.HTTPHandler, known.HTTPSHandler,
        known.HTTPDefaultErrorHandler, known.HTTPRedirectHandler, known.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _stamp(part: Path) -> Path:
    """Where the server's mark of the file stands that a partial file is a part of."""
    return part.with_name(f"{part.name}.stamp")


def _failure(row: Download, part: Path, problem: str, remedy: str = "") -> DatasetError:
    by_hand = f"run again later, or fetch it by hand into {part.parent} and run again, which verifies it"
    return failure(part.parent, row.name, f"{row.url}: {problem}", remedy or by_hand)


def _cut(row: Download, part: Path, have: int, problem: str) -> DatasetError:
    remedy = "they are kept: run again, and it goes on from there"
    return _failure(row, part, f"{problem} after {have} of {row.bytes} bytes", remedy)
