"""An archive that grows: NumPy reads the same arrays, and nothing is left behind."""

import zipfile

import numpy as np
import pytest

from wsol_utils import archive

ARRAYS = {
    "maps": np.arange(60, dtype=np.float16).reshape(5, 3, 4),
    "name": np.array(["é", "ab", "", "c d", "abcd"]),
    "label": np.arange(5),
    "none": np.zeros((5, 0), dtype=np.float32),
}
WHOLE = {
    "size": np.array([224, 96]),
    "identity": np.array("photographs of 1999"),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "deep" / "arrays.npz"
    with archive.Writer(file) as writer:
        for rows in (slice(0, 2), slice(2, 2), slice(2, 5)):
            writer.append(**{name: array[rows] for name, array in ARRAYS.items()})
        writer.put(**WHOLE)
    return file


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_what_is_written_is_read(path):
    found = archive.read(path)
    same(found, ARRAYS | WHOLE)
    assert all(array.flags.aligned for array in found.values())
    assert all(found[name].ctypes.data % 64 == 0 for name in ("maps", "name", "label", "size", "identity"))
    assert [p.name for p in path.parent.iterdir()] == ["arrays.npz"]


def test_numpy_reads_it(path):
    with np.load(path, allow_pickle=False) as arrays:
        same(dict(arrays), ARRAYS | WHOLE)
    with zipfile.ZipFile(path) as members:
        assert members.testzip() is None  # every checksum is right
        assert {info.compress_type for info in members.infolist()} == {zipfile.ZIP_STORED}


def test_what_numpy_writes_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS, **WHOLE)
    same(archive.read(tmp_path / "a.npz"), ARRAYS | WHOLE)
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS, **WHOLE)
    found = archive.read(tmp_path / "b.npz")
    same(found, ARRAYS | WHOLE)
    assert not isinstance(found["maps"], np.memmap)


def test_arrays_are_mapped_and_cannot_be_changed(path):
    found = archive.read(path)
    assert all(isinstance(found[name], np.memmap) for name in ("maps", "name", "label", "size", "identity"))
    with pytest.raises(ValueError, match="read-only"):
        found["maps"][0] = 1
    position = path.read_bytes().index(ARRAYS["maps"].tobytes())
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(np.float16(99).tobytes())
    assert found["maps"][0, 0, 0] == 99  # nothing was read before


def test_a_reader_keeps_the_old_arrays(path):
    found = archive.read(path)
    with archive.Writer(path) as writer:
        writer.put(label=np.arange(2))
    same(archive.read(path), {"label": np.arange(2)})
    same(found, ARRAYS | WHOLE)


def test_the_same_arrays_make_the_same_file(path, tmp_path):
    with archive.Writer(tmp_path / "other.npz") as writer:
        for i in range(5):
            writer.append(**{name: array[i : i + 1] for name, array in ARRAYS.items()})
        writer.put(**WHOLE | {"size": np.zeros(9)})
        writer.put(size=WHOLE["size"])  # in place of the first
    assert (tmp_path / "other.npz").read_bytes() == path.read_bytes()


def test_rows_are_copied_in_pieces(path, monkeypatch, tmp_path):
    monkeypatch.setattr(archive, "PIECE", 7)
    with archive.Writer(tmp_path / "other.npz") as writer:
        writer.append(**ARRAYS)
        writer.put(**WHOLE)
    assert (tmp_path / "other.npz").read_bytes() == path.read_bytes()


def test_rows_that_do_not_lie_in_order(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    with archive.Writer(tmp_path / "a.npz") as writer:
        writer.append(turned=array.transpose(2, 0, 1), skipped=array[:, ::2])
    same(archive.read(tmp_path / "a.npz"), {"turned": array.transpose(2, 0, 1), "skipped": array[:, ::2]})


@pytest.mark.parametrize("rows", [np.zeros((1, 3, 4)), np.zeros((1, 3, 5), np.float16), np.zeros((1, 3), np.float16)])
def test_rows_that_differ(tmp_path, rows):
    with (
        pytest.raises(ValueError, match=r"rows of 'maps' differ: .*, after float16 \(0, 3, 4\)"),
        archive.Writer(tmp_path / "a.npz") as writer,
    ):
        writer.append(maps=ARRAYS["maps"])
        writer.append(maps=rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["while it grows", "while it is put together"])
def test_an_error_leaves_the_old_file_alone(path, monkeypatch, when):
    before = path.read_bytes()
    if when == "while it is put together":
        monkeypatch.setattr(archive.shutil, "copyfileobj", None)
    with pytest.raises(TypeError), archive.Writer(path) as writer:
        writer.append(label=np.arange(3))
        assert len(list(path.parent.glob(".arrays.npz.rows.*.part"))) == 1
        if when == "while it grows":
            raise TypeError
    assert [p.name for p in path.parent.iterdir()] == ["arrays.npz"] and path.read_bytes() == before


def test_what_a_killed_run_left_is_cleared_away(path):
    writer = archive.Writer(path)
    writer.folder.mkdir()
    (writer.folder / "label").write_bytes(b"rows of another run")
    with writer:
        writer.append(label=np.arange(3))
    same(archive.read(path), {"label": np.arange(3)})
    assert [p.name for p in path.parent.iterdir()] == ["arrays.npz"]


def no_arrays(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("letter.txt", "Dear reader")


def objects(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.array([None, {}]))


def one_array(path):
    with open(path, "wb") as file:
        np.save(file, np.arange(3))


def short(path):
    with zipfile.ZipFile(path, "w") as file, file.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**9,)})


SPOILT = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no archive\n" * 100),
    "one array": one_array,
    "no arrays": no_arrays,
    "objects": objects,
    "fewer numbers than it says": short,
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_no_whole_archive(path, spoil):
    SPOILT[spoil](path)
    with pytest.raises(ValueError, match=r"arrays\.npz is no whole \.npz file \(.+\): delete it and run again"):
        archive.read(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        archive.read(tmp_path / "nothing.npz")
