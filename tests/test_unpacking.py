"""Archives are unpacked whole or not at all, and never beyond their folder."""

import io
import signal
import subprocess
import sys
import tarfile
import zipfile

import pytest

from wsol_utils import unpacking
from wsol_utils.data.layouts import DatasetError

PHOTOGRAPH = bytes(range(256)) * 100


@pytest.fixture
def folder(tmp_path):
    """Where archives are unpacked to; whatever stands beside it was written by an archive that got out."""
    folder = tmp_path / "outside" / "data"
    folder.mkdir(parents=True)
    return folder


def tgz(folder, *members):
    """A tar of (name, content) files, and of TarInfos."""
    with tarfile.open(folder / "birds.tgz", "w:gz", compresslevel=1) as opened:
        for member in members:
            entry = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            content = b"" if entry is member else member[1]
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    return folder / "birds.tgz"


def zipped(folder, *members):
    with zipfile.ZipFile(folder / "birds.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return folder / "birds.zip"


def unpack(archive):
    return unpacking.unpack(archive, archive.parent, "birds")


def refused(archive, problem):
    """The archive is refused for that reason, its name and a remedy are said, and it stands alone in its folder."""
    with pytest.raises(DatasetError, match=problem) as caught:
        unpack(archive)
    message = str(caught.value)
    assert message.startswith(f"{archive}: ") and "remove it and download it again" in message and len(message) < 1000
    assert sorted(archive.parent.parent.rglob("*")) == [archive.parent, archive]
    assert [path.name for path in archive.parent.parent.parent.iterdir()] == ["outside"]


both = pytest.mark.parametrize("pack", [tgz, zipped])
GOOD = [("birds/images/a.jpg", PHOTOGRAPH), ("birds/empty.txt", b""), ("attributes.txt", b"beside")]


@both
def test_what_is_inside_is_unpacked_and_what_is_there_is_not_replaced(folder, pack):
    archive = pack(folder, *GOOD)
    assert unpack(archive) == folder / "birds"
    assert (folder / "birds" / "images" / "a.jpg").read_bytes() == PHOTOGRAPH
    assert (folder / "birds" / "empty.txt").read_bytes() == b""
    with pytest.raises(DatasetError, match=rf"birds: is there already; remove it to unpack {archive.name} again"):
        unpack(archive)
    assert sorted(path.name for path in folder.iterdir()) == ["birds", archive.name]


def test_owners_and_permissions_are_not_taken_over(folder):
    entry = tarfile.TarInfo("birds/run.sh")
    entry.mode, entry.uid = 0o6777, 4711
    found = (unpack(tgz(folder, entry)) / "run.sh").stat()
    assert found.st_mode & 0o7022 == 0 and found.st_uid != 4711


@both
def test_another_archive(folder, pack):
    refused(pack(folder, ("cats/a.jpg", PHOTOGRAPH)), "holds no birds")


@pytest.mark.fault("an archive names a path outside of its folder", "nothing is written, inside or outside")
@both
@pytest.mark.parametrize(
    "name", ["../x.txt", "birds/../../x.txt", "/{}/x.txt", "..\\x.txt", "C:/x.txt", "C:x", "../\x1b" + "x" * 60_000]
)
def test_a_path_that_leads_out(folder, pack, name):
    name = name.format(str(folder.parent).strip("/"))
    refused(pack(folder, ("birds/a.jpg", PHOTOGRAPH), (name, b"escaped")), "which leads out of its folder")


@pytest.mark.fault("an archive holds a link, a device or a pipe", "nothing is written")
@pytest.mark.parametrize("target", ["/etc", "birds/a.jpg"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(folder, kind, target):
    entry = tarfile.TarInfo("birds/special")
    entry.type, entry.linkname = kind, target
    archive = tgz(folder, ("birds/a.jpg", PHOTOGRAPH), entry, ("birds/special/passwd", b"x"))
    refused(archive, "holds 'birds/special', a link or a device")


@pytest.mark.fault("an archive is cut off", "nothing of it; the error says to download it again")
@both
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_cut_archive(folder, pack, share):
    archive = pack(folder, *((f"birds/{i}.jpg", PHOTOGRAPH[i:]) for i in range(5)))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    refused(archive, "cut off, or no")


KILLED = """
import os, signal, sys; from pathlib import Path; from wsol_utils import unpacking
def hook(event, about):
    if event == "open" and str(about[0]).endswith("2.jpg"):
        os.kill(os.getpid(), int(sys.argv[2]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who started the tests may ignore
sys.addaudithook(hook)
archive = Path(sys.argv[1])
unpacking.unpack(archive, archive.parent, "birds")
"""


@pytest.mark.fault(
    "SIGKILL while an archive is unpacked", "no half of it; the next call clears it away and unpacks all"
)
@pytest.mark.fault("Ctrl-C while an archive is unpacked", "nothing of it")
@both
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_unpacking(folder, pack, sign):
    archive = pack(folder, *((f"birds/{i}.jpg", PHOTOGRAPH) for i in range(4)))
    (folder / ".birds.tgz.partial").touch()  # a download that waits to go on is not cleared away
    assert subprocess.run([sys.executable, "-c", KILLED, archive, str(int(sign))], stderr=-3).returncode == -sign
    left = [path for path in folder.iterdir() if path not in (archive, folder / ".birds.tgz.partial")]
    assert [len(list((hidden / "birds").iterdir())) for hidden in left] == ([2] if sign == signal.SIGKILL else [])
    assert len(list(unpack(archive).iterdir())) == 4
    assert sorted(path.name for path in folder.iterdir()) == [".birds.tgz.partial", "birds", archive.name]


@pytest.mark.fault("no space is left for what an archive holds", "nothing of it; the error says where to free some")
@both
def test_no_space(folder, pack, small_disk):
    archive = pack(folder, ("birds/a.jpg", bytes(200_000)))
    with pytest.raises(OSError, match=r"birds could not be written \(File too large\): free some space there"):
        unpack(archive)
    assert list(folder.iterdir()) == [archive]
