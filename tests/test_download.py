"""Downloads go on where they were cut, are verified before they have a name, and are unpacked whole or not at all."""

import hashlib
import http.server
import io
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
from click.testing import CliRunner
from torchvision.models import get_weight

from wsol_utils import __main__ as commands
from wsol_utils import download
from wsol_utils.data.text import DatasetError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
HALF = 400_000
PART = ".birds.bin.partial"


@dataclass
class Site:
    """What the server on this machine offers, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    stop_at: int | None = None  # bytes of an answer after which the connection is cut
    waits: float = 0  # seconds before an answer
    stalls: bool = False  # or, in place of the cut, nothing more comes
    shift: int = 0  # from where a part was asked to begin to where it does
    length: int | None = None  # that the header claims, if not the true one; -1 for no header
    status: int = 0  # an error in place of the file
    port: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked, start, status = handler.headers, 0, 200
        self.asked.append(dict(asked.items()))
        time.sleep(self.waits)
        if self.ranges and "Range" in asked:
            start = int(asked["Range"].removeprefix("bytes=").removesuffix("-")) + self.shift
            status = 206 if start < len(self.content) else 416
        body = b"" if self.status else self.content[start:]
        handler.send_response(self.status or status)
        handler.send_header("Content-Encoding", "x-gzip")  # as some servers call every .tgz: not to be undone
        if self.length != -1:
            handler.send_header("Content-Length", str(self.length or len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.stop_at])
        if self.stalls:
            self.over.wait(20)


@pytest.fixture
def site():
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            site.answer(self)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield site
        site.over.set()
        server.shutdown()


@pytest.fixture
def table(site, tmp_path, monkeypatch):
    """A function that makes a table of one download: birds.bin at the server, unless told otherwise."""

    def make(content=CONTENT, **values):
        row = {"name": "birds.bin", "what": "made-up birds", "url": f"http://127.0.0.1:{site.port}/birds.bin"}
        row |= {"bytes": len(content), "algorithm": "sha256", "checksum": hashlib.sha256(content).hexdigest()}
        row |= {"stated_by": "this test", "verified_here": "no", "unpacks_to": values.get("name", "birds.bin")}
        pd.DataFrame([row | {"data_root": ""} | values]).to_csv(tmp_path / "table.csv", index=False)
        monkeypatch.setattr(download, "TABLE", tmp_path / "table.csv")

    make()
    return make


@pytest.fixture
def folder(table, tmp_path):
    return tmp_path / "data"


def names(folder):
    """What lies in a folder, but for the lock."""
    return sorted({path.name for path in folder.iterdir()} - {".downloads.lock"}) if folder.exists() else []


def in_a_process(name, folder):
    script = (
        "import sys; from pathlib import Path; from wsol_utils import download\n"
        "download.TABLE = Path(sys.argv[1]); download.get(*sys.argv[2:])"
    )
    return subprocess.Popen([sys.executable, "-c", script, folder.parent / "table.csv", name, folder])


def fetched(folder):
    """The file is fetched, whole, and nothing else is left."""
    assert download.fetch("birds.bin", folder).read_bytes() == CONTENT and names(folder) == ["birds.bin"]


def refused(folder, told):
    with pytest.raises(DatasetError, match=told):
        download.fetch("birds.bin", folder)


# Interruptions.


@pytest.mark.fault("the connection ends in the middle of a download", "its bytes; the next call asks for the rest only")
@pytest.mark.fault("a server falls silent in the middle of a download", "its bytes, after a time-out")
@pytest.mark.parametrize("stalls, length, told", [
    (False, None, "onnection broken: IncompleteRead"), (False, -1, "the connection ended"), (True, None, "timed out"),
])  # fmt: skip
def test_a_cut_download_goes_on(site, folder, monkeypatch, stalls, length, told):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    site.stop_at, site.stalls, site.length = HALF, stalls, length
    refused(folder, told + r".*; \d+ of 1024000 bytes are kept: run again, and it goes on from there")
    kept = (folder / PART).stat().st_size
    assert HALF - download.AT_ONCE < kept <= HALF and names(folder) == [PART]
    site.stop_at = site.length = None
    fetched(folder)
    assert site.asked[1]["Range"] == f"bytes={kept}-"
    fetched(folder)
    assert len(site.asked) == 2


@pytest.mark.fault("SIGKILL in the middle of a download", "its bytes; the next call asks for the rest only")
def test_a_killed_download_goes_on(site, folder):
    site.stop_at, site.stalls = HALF, True
    process, part = in_a_process("birds.bin", folder), folder / PART
    while not (part.exists() and part.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() < 0 and names(folder) == [PART]
    kept = part.stat().st_size
    site.stop_at, site.stalls = None, False
    fetched(folder)
    assert site.asked[1]["Range"] == f"bytes={kept}-"


def left(folder, content):
    """A partial file, as an interruption leaves it."""
    folder.mkdir()
    (folder / PART).write_bytes(content)


@pytest.mark.fault("a server cannot send parts of a file", "the download starts over")
def test_a_server_that_cannot_send_parts(site, folder):
    left(folder, CONTENT[:HALF])
    site.ranges = False
    fetched(folder)
    assert [asked.get("Range") for asked in site.asked] == [f"bytes={HALF}-"]


@pytest.mark.fault("the file changes at its source between two halves of a download", "nothing; the next starts over")
@pytest.mark.fault("a download has the right size and the wrong bytes", "nothing of it; both checksums are said")
@pytest.mark.fault("a server offers a file of another size", "nothing is downloaded; both sizes are said")
@pytest.mark.parametrize("part, site_has, told, kept", [
    (CONTENT[HALF::-1], {}, r"expected sha256 \w+ \(this test\), found sha256 \w+; what came was removed", 0),
    (b"", {"content": CONTENT[::-1]}, "expected sha256", 0),
    (b"", {"content": CONTENT + b"more", "length": -1}, r"expected 1024000 bytes .*, found 1024004 bytes", 0),
    (b"", {"content": CONTENT + bytes(10**7), "length": -1}, "found 1048576 bytes", 0),  # as if without end
    (CONTENT + b"more", {}, r"expected 1024000 bytes .*, found 1024004 bytes", 0),
    (CONTENT[:HALF], {"shift": -7}, "624007 bytes are offered where 624000 are expected", HALF),
    (CONTENT[:HALF], {"content": b"<html>sign in</html>", "ranges": False}, "20 bytes are offered where 1024000", HALF),
    (CONTENT[:HALF], {"status": 403}, "403 .*Forbidden.*; 400000 of 1024000 bytes are kept: run again", HALF),
])  # fmt: skip
def test_what_is_not_the_file_gets_no_name(site, folder, part, site_has, told, kept):
    left(folder, part)
    vars(site).update(site_has)
    refused(folder, told)
    assert names(folder) == [PART] * bool(kept) and (not kept or (folder / PART).read_bytes() == CONTENT[:kept])
    vars(site).update(content=CONTENT, ranges=True, shift=0, length=None, status=0)
    fetched(folder)
    assert ("Range" in site.asked[-1]) == bool(kept)


@pytest.mark.fault("the file in a download's place is another one", "it stays, and is not used")
@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_another_file_in_its_place(site, table, folder, algorithm):
    table(algorithm=algorithm, checksum=hashlib.new(algorithm, CONTENT).hexdigest())
    folder.mkdir()
    for content, found in ((b"short", "5 bytes"), (CONTENT[::-1], algorithm)):
        (folder / "birds.bin").write_bytes(content)
        refused(folder, f"not the file that http.* found {found}.*; remove it and run again")
        assert (folder / "birds.bin").read_bytes() == content and site.asked == []
    (folder / "birds.bin").write_bytes(CONTENT)
    fetched(folder)


@pytest.mark.fault("no space is left for a download", "its bytes; the error says where to free some")
def test_no_space_for_a_download(folder, small_disk):
    with pytest.raises(OSError, match=r"birds\.bin could not be written \(File too large\): free some space there"):
        download.fetch("birds.bin", folder)
    assert (folder / PART).stat().st_size == 65536


# Archives.

GOOD = {"birds/images/a.jpg": CONTENT, "birds/empty.txt": b"", "attributes.txt": b"beside"}


def tgz(members, *entries):
    """A tar of files by name, and of further entries."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as opened:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
        for entry in entries:
            opened.addfile(entry)
    return packed.getvalue()


def zipped(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return packed.getvalue()


PACKERS = {"birds.tgz": tgz, "birds.zip": zipped}


@pytest.fixture
def offers(site, table, folder):
    """A function that has the server offer an archive of that name, which unpacks to birds."""

    def offer(name, content):
        site.content = content
        table(content, name=name, unpacks_to="birds", data_root="birds")

    return offer


def command(*arguments):
    return CliRunner().invoke(commands.main, ["download", *map(str, arguments)])


@pytest.mark.parametrize("name", PACKERS)
def test_the_command_fetches_and_unpacks_once(site, offers, folder, name):
    offers(name, PACKERS[name](GOOD))
    for options in ((), ("--no-keep-archive",)):  # the second finds nothing to do
        result = command(name, "--root", folder, *options)
        assert result.stdout == f"{folder / 'birds'} is there; DATA_ROOT={folder / 'birds'}\n", result.stderr
    assert (folder / "birds" / "images" / "a.jpg").read_bytes() == CONTENT
    assert (folder / "birds" / "empty.txt").read_bytes() == b""
    assert names(folder) == ["birds", name] and len(site.asked) == 1


def test_the_command_without_an_archive(table, offers, folder):
    assert command("birds.bin", "--root", folder).stdout == f"{folder / 'birds.bin'} is there\n"
    offers("birds.tgz", tgz(GOOD))
    assert command("birds.tgz", "--root", folder, "--no-keep-archive").exit_code == 0
    assert names(folder) == ["birds", "birds.bin"]


@pytest.mark.fault(
    "two processes download the same file at once", "one fetches it; the other waits, and finds it there"
)
def test_two_at_once(site, offers, folder):
    offers("birds.tgz", tgz(GOOD))
    first = in_a_process("birds.tgz", folder)
    site.waits = 0.5
    while not site.asked and first.poll() is None:
        time.sleep(0.01)
    download.get("birds.tgz", folder)  # meanwhile
    assert first.wait() == 0 and names(folder) == ["birds", "birds.tgz"] and len(site.asked) == 1


@pytest.mark.fault("an archive is not the one that the table states, by one byte", "it is not unpacked")
def test_what_is_not_verified_is_not_unpacked(offers, folder):
    archive = tgz(GOOD)
    offers("birds.tgz", archive)
    folder.mkdir()
    (folder / "birds.tgz").write_bytes(archive[:9] + b"\0" + archive[10:])  # gzip's note of the system: it unpacks
    result = command("birds.tgz", "--root", folder)
    assert result.exit_code == 1 and "found sha256" in result.stderr and names(folder) == ["birds.tgz"]


def special(kind):
    entry = tarfile.TarInfo("birds/special")
    entry.type, entry.linkname = kind, "/etc"
    return entry


HOSTILE = {
    "a path": ("birds.tgz", tgz(GOOD | {"birds/../../x.txt": b"escaped"})),
    "a path in a zip": ("birds.zip", zipped(GOOD | {"birds/../../x.txt": b"escaped", "/x.txt": b"escaped"})),
    "a link": ("birds.tgz", tgz(GOOD, special(tarfile.SYMTYPE))),
    "a device": ("birds.tgz", tgz(GOOD, special(tarfile.CHRTYPE))),
}


@pytest.mark.fault("an archive names a path or a link outside of its folder, or a device", "nothing is written there")
@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_leads_out(offers, folder, what):
    name, archive = HOSTILE[what]
    offers(name, archive)
    if name == "birds.tgz":
        with pytest.raises(tarfile.FilterError):
            download.get(name, folder)
        assert names(folder) == [name]
    else:  # such members are passed over
        assert sorted(path.name for path in download.get(name, folder).rglob("*")) == ["a.jpg", "empty.txt", "images"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["data", "table.csv"]


KILLED = """
import os, signal, sys; from pathlib import Path; from wsol_utils import download
def hook(event, about):
    if event == "open" and str(about[0]).endswith("2.jpg"):
        os.kill(os.getpid(), int(sys.argv[2]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who started the tests may ignore
sys.addaudithook(hook)
download.TABLE = Path(sys.argv[1]).parent / "table.csv"
download.get("birds.tgz", sys.argv[1])
"""


@pytest.mark.fault(
    "SIGKILL while an archive is unpacked", "no half of it; the next call clears it away and unpacks all"
)
@pytest.mark.fault("Ctrl-C while an archive is unpacked", "nothing of it")
def test_a_killed_unpacking(offers, folder):
    offers("birds.tgz", tgz({f"birds/{i}.jpg": b"a photograph" for i in range(4)}))
    for sign, hidden in ((signal.SIGKILL, 1), (signal.SIGINT, 0)):
        assert subprocess.run([sys.executable, "-c", KILLED, folder, str(int(sign))], stderr=-3).returncode == -sign
        assert not (folder / "birds").exists() and len(list(folder.glob(".birds.*.part"))) == hidden
    assert len(list(download.get("birds.tgz", folder).iterdir())) == 4 and names(folder) == ["birds", "birds.tgz"]


@pytest.mark.fault("no space is left for what an archive holds", "nothing of it; the error says where to free some")
@pytest.mark.parametrize("name", PACKERS)
def test_no_space_for_what_an_archive_holds(offers, folder, name, small_disk):
    offers(name, PACKERS[name]({"birds/a.jpg": bytes(200_000)}))
    with pytest.raises(OSError, match=r"birds could not be written \(File too large\): free some space there"):
        download.get(name, folder)
    assert names(folder) == [name]


@pytest.mark.parametrize("name, message", [
    ("birds.tgz", "onnection ended|onnection broken"),
    ("eagles", "unknown download 'eagles'; data/downloads.csv knows birds.tgz"),
    ("birds.zip", "nobody states a checksum .*; fetch it by hand, unpack it and give the folder with a.txt as DATA_R"),
])  # fmt: skip
def test_an_error_is_one_line(site, offers, folder, table, name, message):
    offers("birds.tgz", tgz(GOOD))
    site.stop_at = 100
    if name == "birds.zip":
        table(url="", bytes="", algorithm="", checksum="", name="birds.zip", unpacks_to="a.txt")
    result = command(name, "--root", folder)
    assert result.exit_code == 1 and re.search(message, result.stderr) and result.stderr.count("\n") == 1


# The table.

ROWS = download.table()
ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "data" / "README.md").read_text(encoding="utf-8").split("## Downloads")[1].split("\n## ")[0]
WEIGHTS = {"vgg16": "VGG16_Weights", "resnet50": "ResNet50_Weights", "squeezenet1_1": "SqueezeNet1_1_Weights"}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_row_is_whole_and_the_readme_shows_it(row):
    assert re.fullmatch("[0-9a-f]*", row.checksum)
    assert len(row.checksum) == {"": 0, "md5": 32, "sha256": 64}[row.algorithm]
    assert row.stated_by.startswith(("publisher: ", "secondary: ") if row.checksum else "nobody")
    assert row.verified_here == "no" and row.what and bool(row.url) == bool(row.bytes) == bool(row.checksum)
    assert all(re.fullmatch(r"\w[\w.-]*", name) for name in (row.name, row.unpacks_to, row.data_root or "x"))
    url = urlsplit(row.url)
    assert not row.url or (url.scheme in ("http", "https") and url.hostname and url.path.endswith("/" + row.name))
    checksum, size = (f"{row.algorithm} `{row.checksum}`", f"{row.bytes:,}") if row.checksum else ("none", "")
    cells = (f"`{row.name}`", row.what, size, checksum, row.stated_by, row.verified_here)
    assert f"| {' | '.join(cells)} |" in SECTION


def test_the_table_has_the_data_sets_and_the_readme_no_other_row():
    assert {"CUB_200_2011.tgz", "segmentations.tgz", "tiny-imagenet-200.zip"} <= {n for n, r in ROWS.items() if r.url}
    assert len(re.findall(r"^\| `", SECTION, flags=re.MULTILINE)) == len(ROWS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_that_torchvision_fetches(name):
    weights = get_weight(f"{WEIGHTS[name]}.IMAGENET1K_V1")
    [row] = [row for row in ROWS.values() if row.name.startswith(f"{name}-")]
    assert row.url == weights.url
    assert row.name == f"{name}-{row.checksum[:8]}.pth"  # torchvision compares these digits itself
    assert round(row.bytes / 2**20, 3) == weights.meta["_file_size"]
