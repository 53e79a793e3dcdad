"""Archives are unpacked whole or not at all, and hostile ones leave nothing behind."""

import gzip
import io
import resource
import signal
import stat
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


def tar_bytes(*members):
    """A tar of (name, content) files, of folders where the content is None, and of TarInfos."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as opened:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                opened.addfile(member)
                continue
            entry = tarfile.TarInfo(member[0])
            if member[1] is None:
                entry.type = tarfile.DIRTYPE
            entry.size = len(member[1] or b"")
            opened.addfile(entry, io.BytesIO(member[1] or b""))
    return packed.getvalue()


def special(kind, target=""):
    entry = tarfile.TarInfo("birds/special")
    entry.type, entry.linkname = kind, target
    return entry


def tgz(folder, *members):
    path = folder / "birds.tgz"
    path.write_bytes(gzip.compress(tar_bytes(*members), 1))
    return path


def zipped(folder, *members):
    """A zip of (name or ZipInfo, content) files."""
    path = folder / "birds.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return path


def unpack(archive, most_files=20, most_bytes=1_000_000):
    return unpacking.unpack(archive, archive.parent, "birds", most_files, most_bytes)


def refused(archive, problem, **bounds):
    """The archive is refused for that reason, its name and a remedy are said, and it stands alone in its folder."""
    with pytest.raises(DatasetError, match=problem) as caught:
        unpack(archive, **bounds)
    message = str(caught.value)
    assert message.startswith(f"{archive}: ") and "remove it and download it again" in message
    assert sorted(archive.parent.parent.rglob("*")) == [archive.parent, archive]
    assert [path.name for path in archive.parent.parent.parent.iterdir()] == ["outside"]


GOOD = [("./birds", None), ("birds/images/a.jpg", PHOTOGRAPH), ("birds/empty.txt", b""), ("attributes.txt", b"beside")]


@pytest.mark.parametrize("pack, members", [(tgz, GOOD), (zipped, [("birds/", b""), *GOOD[1:]])])
def test_what_is_inside_is_unpacked(folder, pack, members):
    archive = pack(folder, *members)
    assert unpack(archive) == folder / "birds"
    assert (folder / "birds" / "images" / "a.jpg").read_bytes() == PHOTOGRAPH
    assert (folder / "birds" / "empty.txt").read_bytes() == b""
    assert sorted(path.name for path in folder.iterdir()) == ["birds", archive.name]


def test_owners_and_permissions_are_not_taken_over(folder):
    entry = tarfile.TarInfo("birds/run.sh")
    entry.mode, entry.uid = 0o6777, 0
    assert (unpack(tgz(folder, entry)) / "run.sh").stat().st_mode & 0o7111 == 0


def test_what_is_there_is_not_replaced(folder):
    archive = tgz(folder, *GOOD)
    unpack(archive)
    (folder / "birds" / "mine.txt").touch()
    with pytest.raises(DatasetError, match=r"birds: is there already; remove it to unpack birds\.tgz again"):
        unpack(archive)
    assert (folder / "birds" / "mine.txt").exists()


def test_another_archive(folder):
    refused(tgz(folder, ("cats/a.jpg", PHOTOGRAPH)), "holds no birds")


# Names that lead elsewhere.


@pytest.mark.fault("an archive names a path outside of its folder", "nothing is written, inside or outside")
@pytest.mark.parametrize("pack", [tgz, zipped])
@pytest.mark.parametrize(
    "name", ["../escaped.txt", "birds/../../escaped.txt", "/{}/escaped.txt", "..\\escaped.txt", "C:/escaped.txt", "C:x"]
)
def test_a_path_that_leads_out(folder, pack, name):
    name = name.format(str(folder.parent).strip("/"))
    refused(pack(folder, ("birds/a.jpg", PHOTOGRAPH), (name, b"escaped")), "which leads out of its folder")


def test_a_name_of_control_characters_and_a_long_one_are_said_in_one_short_line(folder):
    for name in ("../\x1b[2J\n", "../" + "x" * 100_000):
        with pytest.raises(DatasetError, match="nothing was unpacked") as caught:
            unpack(tgz(folder, (name, b"")))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_folders_without_end(folder):
    refused(tgz(folder, ("birds/" + "a/" * 500 + "a.jpg", b"deep")), "folders more than 16 deep")


@pytest.mark.fault("an archive holds a link, a device or a pipe", "nothing is written")
@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_links_and_devices_in_a_tar(folder, kind):
    target = "birds/a.jpg" if kind == tarfile.LNKTYPE else "/etc"
    archive = tgz(folder, ("birds/a.jpg", PHOTOGRAPH), special(kind, target), ("birds/special/passwd", b"x"))
    refused(archive, "holds 'birds/special', a link, a device or a sparse file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip(folder, kind):
    entry = zipfile.ZipInfo("birds/special")
    entry.external_attr = (kind | 0o777) << 16
    refused(zipped(folder, (entry, "/etc")), "holds 'birds/special', a link or a device")


@pytest.mark.fault("an archive holds a name twice, or a file in a folder's place", "nothing is written")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", [tgz, zipped])
@pytest.mark.parametrize("first, second", [("birds/a", "birds/a"), ("birds/a/b", "birds/a"), ("birds/a", "birds/a/b")])
def test_a_name_twice(folder, pack, first, second):
    refused(pack(folder, (first, b"1"), (second, b"2")), f"holds '{second}' twice, or in a file's place")


# Bombs.


@pytest.fixture
def written(monkeypatch):
    """How many bytes stood in each hidden folder when it was removed."""
    sizes, rmtree = [], unpacking.shutil.rmtree

    def measured(path, **options):
        sizes.append(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
        rmtree(path, **options)

    monkeypatch.setattr(unpacking.shutil, "rmtree", measured)
    return sizes


@pytest.mark.fault("an archive unpacks to more bytes than the data set has", "nothing; it stops at the bound")
@pytest.mark.parametrize("pack", [tgz, zipped])
def test_a_bomb_of_bytes(folder, pack, written):
    archive = pack(folder, ("birds/zeros", bytes(20_000_000)))
    assert archive.stat().st_size < 150_000
    refused(archive, "holds more than 3000000 bytes", most_bytes=3_000_000)
    assert len(written) == 1 and written[0] <= 3_000_000


@pytest.mark.fault("an archive unpacks to more files than the data set has", "nothing; it stops at the bound")
@pytest.mark.parametrize("pack", [tgz, zipped])
def test_a_bomb_of_files(folder, pack):
    refused(pack(folder, *((f"birds/{i}", b"") for i in range(21))), "holds more than 20 files")
    assert unpack(pack(folder, *((f"birds/{i}", b"") for i in range(20))))


@pytest.mark.fault("a zip's header lies about the size of a file", "nothing; no more than it said is written")
def test_a_zip_that_lies_about_its_size(folder, written):
    archive = zipped(folder, ("birds/zeros", bytes(20_000_000)))
    content, true = archive.read_bytes(), (20_000_000).to_bytes(4, "little")
    assert content.count(true) == 2  # beside the file, and in the list of files
    archive.write_bytes(content.replace(true, (1000).to_bytes(4, "little")))
    refused(archive, r"cut off, or no \.zip archive \(Bad CRC-32")
    assert written[0] <= 1000


@pytest.mark.fault("a tar's header lies about the size of a file", "nothing")
def test_a_tar_that_lies_about_its_size(folder):
    entry = tarfile.TarInfo("birds/a.jpg")
    entry.size = 10**12
    refused(tgz(folder, entry), r"cut off, or no \.tgz archive \(unexpected end of data")


def test_a_tar_with_a_huge_header(folder):
    entry = tarfile.TarInfo("birds/a.jpg")
    entry.pax_headers = {"comment": "x" * 3_000_000}
    refused(tgz(folder, entry), "a header, or an end, of more than 1 MiB")


def test_a_zip_packed_otherwise(folder):
    archive = folder / "birds.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as opened:
        opened.writestr("birds/a.jpg", PHOTOGRAPH)
    refused(archive, "packed in a way that can grow without bound")


@pytest.mark.fault("a zip is encrypted", "nothing is written")
def test_an_encrypted_zip(folder):
    archive = zipped(folder, ("birds/a.jpg", PHOTOGRAPH))
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # the flag beside the file
    content[content.index(b"PK\1\2") + 8] |= 1  # and in the list of files
    archive.write_bytes(content)
    refused(archive, "holds 'birds/a.jpg', encrypted")


# Archives that are cut off or broken.


@pytest.mark.fault("an archive is cut off", "nothing of it; the error says to download it again")
@pytest.mark.parametrize("pack", [tgz, zipped])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_archive(folder, pack, share):
    archive = pack(folder, *((f"birds/{i}.jpg", PHOTOGRAPH[i:]) for i in range(5)))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    refused(archive, "cut off, or no")


def test_a_tar_cut_between_two_files_in_a_whole_gzip(folder):
    """tarfile itself would take this for the end."""
    content = tar_bytes(("birds/a.jpg", bytes(1024)), ("birds/b.jpg", b"b"))
    (folder / "birds.tgz").write_bytes(gzip.compress(content[: 512 + 1024]))
    refused(folder / "birds.tgz", "no end mark where the last file ends")


def test_a_tar_with_a_broken_header_in_the_middle(folder):
    """And this."""
    content = bytearray(tar_bytes(("birds/a.jpg", bytes(1024)), ("birds/b.jpg", b"b")))
    content[512 + 1024 + 150] ^= 1
    (folder / "birds.tgz").write_bytes(gzip.compress(content))
    refused(folder / "birds.tgz", "no end mark where the last file ends")


@pytest.mark.parametrize("pack", [tgz, zipped])
def test_a_changed_byte(folder, pack):
    archive = pack(folder, ("birds/a.jpg", PHOTOGRAPH))
    content = bytearray(archive.read_bytes())
    content[100] ^= 0xFF
    archive.write_bytes(content)
    refused(archive, "cut off, or no")


def test_gzips_own_checksum_is_compared(folder):
    """It comes last, after more zeros than tarfile looks at."""
    content = bytearray(gzip.compress(tar_bytes(("birds/a.jpg", PHOTOGRAPH)) + bytes(100_000)))
    content[-8] ^= 1
    (folder / "birds.tgz").write_bytes(content)
    refused(folder / "birds.tgz", "CRC check failed")


@pytest.mark.parametrize("name", ["birds.tgz", "birds.zip"])
def test_a_page_in_an_archives_place(folder, name):
    (folder / name).write_text("<html>sign in</html>" * 100)
    refused(folder / name, "cut off, or no")


def test_an_archive_of_another_kind(folder):
    (folder / "birds.rar").write_bytes(b"Rar!")
    refused(folder / "birds.rar", r"neither a \.zip nor a \.tgz")


# Kills, and a full disk.

KILLED = (
    "import os, signal, sys; from pathlib import Path; from wsol_utils import unpacking\n"
    "parts, seen = unpacking._parts, []\n"
    "def dying(archive, name):\n"
    "    seen.append(name)\n"
    "    if len(seen) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
    "    return parts(archive, name)\n"
    "unpacking._parts = dying\n"
    "archive = Path(sys.argv[1])\n"
    "unpacking.unpack(archive, archive.parent, 'birds', 20, 1_000_000)"
)


@pytest.mark.fault(
    "SIGKILL while an archive is unpacked", "no half of it; the next call clears it away and unpacks all"
)
def test_a_killed_unpacking(folder):
    archive = tgz(folder, *((f"birds/{i}.jpg", PHOTOGRAPH) for i in range(4)))
    assert subprocess.run([sys.executable, "-c", KILLED, archive]).returncode == -signal.SIGKILL
    [left] = [path for path in folder.iterdir() if path != archive]
    assert left.name.startswith(".birds.") and len(list((left / "birds").iterdir())) == 2
    (folder / ".birds.tgz.partial").touch()  # a download that waits to go on is not cleared away
    assert len(list(unpack(archive).iterdir())) == 4
    assert sorted(path.name for path in folder.iterdir()) == [".birds.tgz.partial", "birds", "birds.tgz"]


@pytest.mark.fault("Ctrl-C while an archive is unpacked", "nothing of it")
def test_an_interrupted_unpacking(folder, monkeypatch):
    def interrupted(archive, name):
        raise KeyboardInterrupt

    archive = tgz(folder, *GOOD)
    monkeypatch.setattr(unpacking, "_parts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive)
    assert list(folder.iterdir()) == [archive]


@pytest.mark.fault("no space is left for what an archive holds", "nothing of it; the error says where to free some")
def test_no_space(folder):
    archive = tgz(folder, ("birds/a.jpg", bytes(200_000)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(OSError, match=r"birds could not be written \(File too large\): free some space there"):
            unpack(archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == [archive]
