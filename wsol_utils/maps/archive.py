"""An .npz whose arrays grow along their first axis while it is written, and are read without being loaded.

It is what `numpy.savez` writes, an uncompressed zip of .npy files: any other program reads it with `numpy.load`.
"""

import math
import shutil
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.lib import format as npy

from wsol_utils.common import files

PIECE = 1 << 20  # bytes that are copied at a time
ALIGNMENT = 64  # of an array's first byte in the file, as NumPy's own headers have it
PADDING = 0xD935  # the zip field that says: to be skipped


class Writer:
    """Writes an archive, in memory that does not grow with it.

    Rows go into files of their own in a folder beside the target, and from there into the archive, which gets its
    name at the very end: a reader sees the old one or the new one. An error leaves the old one and nothing else.

        with Writer(path) as writer:
            for some in batches:
                writer.append(maps=some)
            writer.put(size=np.array([224, 224]))
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, files.beside(path.with_name(f"{path.name}.rows"))
        self.rows: dict[str, np.ndarray] = {}  # none of them: dtype and shape
        self.counts: dict[str, int] = {}
        self.whole: dict[str, np.ndarray] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        with files.explained(self.path):
            self.folder.mkdir(parents=True)
        return self

    def append(self, **arrays: np.ndarray) -> None:
        """Rows (n, ...) of each array, after those that it has.

        Raises:
            ValueError: if they differ from the first ones in dtype or shape.
        """
        for name, array in arrays.items():
            like = self.rows.setdefault(name, array[:0].copy())
            if (array.dtype, array.shape[1:]) != (like.dtype, like.shape[1:]):
                raise ValueError(
                    f"rows of {name!r} differ: {array.dtype} {array.shape}, after {like.dtype} {like.shape}"
                )
            self.counts[name] = self.counts.get(name, 0) + len(array)
            with files.explained(self.path), open(self.folder / name, "ab") as file:
                file.write(array.tobytes())  # NumPy's own tofile does not say why it failed

    def put(self, **arrays: np.ndarray) -> None:
        """Arrays as they are, of any shape, in place of an earlier one of that name."""
        self.whole |= arrays

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with files.written(self.path) as temporary:
                    self._assemble(temporary)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _assemble(self, temporary: Path) -> None:
        with open(temporary, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, like in self.rows.items():
                shape = (self.counts[name], *like.shape[1:])
                with _member(archive, name, file.tell()) as member, open(self.folder / name, "rb") as rows:
                    header = {"descr": npy.dtype_to_descr(like.dtype), "fortran_order": False, "shape": shape}
                    npy.write_array_header_1_0(member, header)
                    shutil.copyfileobj(rows, member, PIECE)
            for name, array in self.whole.items():
                with _member(archive, name, file.tell()) as member:
                    npy.write_array(member, array, allow_pickle=False)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive, read-only and mapped into memory: a part is read when it is looked at.

    An array that another program compressed is loaded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, or no archive of plain arrays.
    """
    try:
        data = np.memmap(path, mode="r")  # (bytes,)
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _array(archive, info, data) for info in archive.infolist()}
    except Exception as error:  # zipfile's and NumPy's readers raise many kinds
        if isinstance(error, OSError) and error.filename:
            raise  # the file cannot be opened; where zipfile seeks a place that is none, there is no name
        raise ValueError(f"{path} is no whole .npz file ({error}): delete it and run again") from error


def _member(archive: zipfile.ZipFile, name: str, start: int) -> IO[bytes]:
    """An array's file in the archive, to be written: its data are aligned, and it bears no date."""
    info = zipfile.ZipInfo(f"{name}.npy")
    before = start + 30 + len(info.filename.encode()) + 20 + 4  # a header, the name, what zip64 and the padding take
    padding = -before % ALIGNMENT
    info.extra = struct.pack("<HH", PADDING, padding) + bytes(padding)
    return archive.open(info, "w", force_zip64=True)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: np.ndarray) -> np.ndarray:
    with archive.open(info) as file:
        if info.compress_type != zipfile.ZIP_STORED:
            return npy.read_array(file, allow_pickle=False)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran, dtype = readers[npy.read_magic(file)](file)
        local = data[info.header_offset + 26 :].data  # the local header's own lengths
        name, extra = struct.unpack_from("<HH", local)
        first = info.header_offset + 30 + name + extra + file.tell()
    last = first + dtype.itemsize * math.prod(shape)
    return data[first:last].view(dtype).reshape(shape, order="F" if fortran else "C")
