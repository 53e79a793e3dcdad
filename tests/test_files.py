"""Files are there whole or not at all, and an error says what to do."""

import errno
import os
import subprocess
import sys

import pytest

from wsol_utils import files


def test_written_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with files.written(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent and temporary.name.startswith(".")
    assert path.read_text() == "new" and [p.name for p in path.parent.iterdir()] == ["a.txt"]
    files.write_text(path, "η\r\nb\n")
    assert path.read_bytes() == "η\r\nb\n".encode()  # line ends as they were


@pytest.mark.parametrize(
    "error", [ValueError("of the block"), KeyboardInterrupt(), FileNotFoundError(2, "no such file")]
)
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, files.written(path) as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda opened: order.append("fsync") or fsync(opened))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("replace") or replace(a, b))
    files.write_text(tmp_path / "a.txt", "text")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder
    order.clear()
    with files.written(tmp_path / "b.txt", durable=False) as temporary:
        temporary.touch()
    assert order == ["replace"]
    order.clear()
    for _ in range(2):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "a").touch()
        files.put(tmp_path / "new", tmp_path / "folder")
    once = ["fsync", "fsync", "replace", "replace", "fsync"]  # file and folder, away with an old one, name, around it
    assert order == 2 * once and [p.name for p in (tmp_path / "folder").iterdir()] == ["a"]


@pytest.mark.parametrize("text, cut", [("", True), ("a\nb", True), ("a\n", False)])
def test_cut_off(tmp_path, text, cut):
    (tmp_path / "a.csv").write_text(text)
    assert files.is_cut_off(tmp_path / "a.csv") is cut


def test_two_processes_at_once_leave_one_whole_file(tmp_path):
    script = (
        "import sys; from wsol_utils import files\n"
        "for _ in range(50): files.write_text(sys.argv[1], sys.argv[2] * 200_000)"
    )
    path = tmp_path / "a.txt"
    run = [subprocess.Popen([sys.executable, "-c", script, path, letter]) for letter in "ab"]
    while any(process.poll() is None for process in run):
        if path.exists():
            assert path.read_text() in ("a" * 200_000, "b" * 200_000)
    assert [process.returncode for process in run] == [0, 0] and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_another_process_may_put_its_folder_there_first(tmp_path, monkeypatch):
    target, temporary, real = tmp_path / "folder", files.beside(tmp_path / "folder"), os.replace

    def after_another(some, to):
        if to == target:
            monkeypatch.undo()
            (target / "another's").mkdir(parents=True)
        real(some, to)

    for folder in (target / "old", temporary / "new"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(os, "replace", after_another)
    files.put(temporary, target)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["folder", "folder/new"]


@pytest.mark.parametrize(
    "number, remedy",
    [*((number, "free some space there") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
     *((number, "make its folder writable, or name another one") for number in (errno.EACCES, errno.EROFS))],
)  # fmt: skip
def test_an_error_names_file_cause_and_remedy_once(tmp_path, number, remedy):
    error, path = OSError(number, os.strerror(number)), tmp_path / "a.txt"
    with pytest.raises(type(error)) as caught, files.explained(path), files.explained(path):
        raise error
    said = f"{path} could not be written ({os.strerror(number)}): {remedy}"
    assert caught.value.errno == number and str(caught.value).count(said) == str(caught.value).count("a.txt") == 1


@pytest.mark.parametrize("error", [TimeoutError("a lock"), FileNotFoundError(2, "x")])
def test_other_errors_are_none_of_the_disks(tmp_path, error):
    with pytest.raises(type(error)) as caught, files.explained(tmp_path / "a.npz"):
        raise error
    assert caught.value is error


def test_sweep_leaves_those_that_still_write(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = [files.beside(tmp_path / "seed0" / "a.csv"), files.beside(tmp_path / "b") / "maps.npy"]
    others = [tmp_path / "seed0" / f".a.csv.{gone.pid}.part", tmp_path / f".b.{gone.pid}.part" / "maps.npy"]
    named = [tmp_path / name for name in ("a.csv", "seed0/b.part", ".lock", ".a.part", ".a.b.part")]
    for path in [*mine, *others, *named]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files.sweep(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*mine, *named}
