"""Downloads go on where they were cut, are verified before they have a name, and the table says only what is known."""

import hashlib
import http.server
import io
import re
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
from click.testing import CliRunner
from torchvision.models import get_weight

from wsol_utils import __main__ as commands
from wsol_utils import download
from wsol_utils.data.layouts import DatasetError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
HALF = 400_000
PART, STAMP = ".birds.bin.partial", ".birds.bin.partial.stamp"


@dataclass
class Site:
    """What the server on this machine offers, and what it was asked."""

    content: bytes = CONTENT
    tag: str = '"one"'
    ranges: bool = True
    stop_at: int | None = None  # bytes of an answer after which the connection is cut
    waits: float = 0  # seconds before an answer
    stalls: bool = False  # or, in place of the cut, nothing more comes
    shift: int = 0  # from where a part was asked to begin to where it does
    length: int | None = None  # that the header claims, if not the true one; -1 for no header
    status: int = 0  # an error in place of the file
    location: str = ""  # a redirect in place of the file
    port: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked, start, status, headers = handler.headers, 0, 200, {"ETag": self.tag}
        self.asked.append(dict(asked.items()))
        time.sleep(self.waits)
        if self.ranges and "Range" in asked and asked.get("If-Range", self.tag) == self.tag:
            start = int(asked["Range"].removeprefix("bytes=").removesuffix("-")) + self.shift
            status = 206 if start < len(self.content) else 416
        body = self.content[start:]
        headers["Content-Encoding"] = "x-gzip"  # as some servers call every .tgz: not to be undone
        if self.length != -1:
            headers["Content-Length"] = str(self.length or len(body))
        if self.status or (self.location and handler.path == "/birds.bin"):
            status, headers, body = self.status or 302, {"Location": self.location}, b""
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        self.sent.append(len(body[: self.stop_at]))
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
    assert HALF - download.AT_ONCE < kept <= HALF and names(folder) == [PART, STAMP]
    site.stop_at = site.length = None
    fetched(folder)
    assert site.asked[1]["Range"] == f"bytes={kept}-" and site.asked[1]["If-Range"] == '"one"'
    assert site.sent == [HALF, len(CONTENT) - kept]
    fetched(folder)
    assert len(site.asked) == 2


@pytest.mark.fault("SIGKILL in the middle of a download", "its bytes; the next call asks for the rest only")
def test_a_killed_download_goes_on(site, folder):
    site.stop_at, site.stalls = HALF, True
    process, part = in_a_process("birds.bin", folder), folder / PART
    while not (part.exists() and part.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() < 0 and names(folder) == [PART, STAMP]
    kept = part.stat().st_size
    site.stop_at, site.stalls = None, False
    fetched(folder)
    assert site.asked[1]["Range"] == f"bytes={kept}-" and site.sent[1] == len(CONTENT) - kept


def left(folder, content):
    """A partial file, as an interruption leaves it."""
    folder.mkdir()
    (folder / PART).write_bytes(content)
    (folder / STAMP).write_text('"one"')


@pytest.mark.fault("the file changes at its source between two halves of a download", "the download starts over")
@pytest.mark.fault("a server cannot send parts of a file", "the download starts over")
@pytest.mark.fault("a server sends without end, or more than it says", "the stated number of bytes, and no more")
@pytest.mark.parametrize("part, site_has, ranges", [
    (b"of the old file" * 100, {"tag": '"two"'}, ["bytes=1500-"]),
    (b"of the old file" * 100, {"ranges": False}, ["bytes=1500-"]),
    (b"", {"content": CONTENT + bytes(5_000_000), "length": -1}, [None]),
    (b"", {"content": CONTENT + bytes(5_000_000), "length": len(CONTENT)}, [None]),
    (CONTENT + b"more", {}, [None]),
    (CONTENT, {}, []),
])  # fmt: skip
def test_whatever_the_server_does_the_file_comes_whole(site, folder, part, site_has, ranges):
    left(folder, part)
    vars(site).update(site_has)
    fetched(folder)
    assert [asked.get("Range") for asked in site.asked] == ranges


def test_a_redirect_is_followed_with_the_range(site, folder):
    left(folder, CONTENT[:HALF])
    site.location = f"http://127.0.0.1:{site.port}/elsewhere"
    fetched(folder)
    assert site.sent == [0, len(CONTENT) - HALF]


@pytest.mark.fault("a download has the right size and the wrong bytes", "nothing of it; both checksums are said")
@pytest.mark.fault("a server sends another part than it was asked for", "nothing of it; the next call starts over")
@pytest.mark.fault("a server offers a file of another size", "nothing is downloaded; both sizes are said")
@pytest.mark.fault("a server redirects to a file of this machine, or to ftp", "nothing is read there")
@pytest.mark.parametrize("site_has, told, kept", [
    ({"content": CONTENT[::-1]}, r"expected sha256 \w+ \(this test\), found sha256 \w+; what came was removed", 0),
    ({"shift": -7}, "624007 bytes are offered where 624000 are expected", 0),
    ({"shift": -7, "length": -1}, "expected sha256", 0),
    ({"content": CONTENT + b"x"}, "624001 bytes are offered where 624000 are expected", 0),
    ({"content": b"<html>sign in</html>", "ranges": False}, "20 bytes are offered where 1024000 are expected", HALF),
    ({"content": CONTENT[:HALF]}, "the server answers 416", HALF),
    ({"status": 403}, "the server answers 403 Forbidden; 400000 of 1024000 bytes are kept: run again", HALF),
    ({"location": "file://{}"}, "No connection adapters were found", HALF),
    ({"location": "ftp://127.0.0.1{}"}, "No connection adapters were found", HALF),
])  # fmt: skip
def test_what_is_not_the_file_gets_no_name(site, folder, tmp_path, site_has, told, kept):
    (tmp_path / "secret").write_bytes(CONTENT)  # on this machine, and it would even pass
    left(folder, CONTENT[:HALF])
    vars(site).update({key: v.format(tmp_path / "secret") if key == "location" else v for key, v in site_has.items()})
    refused(folder, told)
    assert set(names(folder)) <= {PART, STAMP} and (folder / PART).exists() == bool(kept)
    assert not kept or (folder / PART).read_bytes() == CONTENT[:kept]
    vars(site).update(content=CONTENT, ranges=True, shift=0, length=None, status=0, location="")
    fetched(folder)
    assert ("Range" in site.asked[-1]) == bool(kept)


def test_no_server(table, folder):
    table(url="http://127.0.0.1:9/birds.bin")
    refused(folder, r"birds\.bin: http.*refused.*; 0 of 1024000 bytes are kept: .* fetch it by hand into .*data and")


@pytest.mark.fault("the file in a download's place is another one", "it stays, and is not used")
@pytest.mark.parametrize("algorithm, found", [("sha256", "5 bytes"), ("sha256", "sha256 "), ("md5", "md5 ")])
def test_another_file_in_its_place(site, table, folder, algorithm, found):
    table(algorithm=algorithm, checksum=hashlib.new(algorithm, CONTENT).hexdigest())
    folder.mkdir()
    (folder / "birds.bin").write_bytes(content := b"short" if found == "5 bytes" else CONTENT[::-1])
    refused(folder, f"not the file that http.* found {found}.*; remove it and run again")
    assert (folder / "birds.bin").read_bytes() == content and site.asked == []
    (folder / "birds.bin").write_bytes(CONTENT)
    fetched(folder)


# The command, archives, several processes, a full disk.


@pytest.fixture
def archive(site, table, folder):
    """The server offers birds.tgz with one photograph in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        member = tarfile.TarInfo("birds/images/a.jpg")
        member.size = len(CONTENT)
        opened.addfile(member, io.BytesIO(CONTENT))
    site.content = packed.getvalue()
    table(site.content, name="birds.tgz", unpacks_to="birds", data_root="birds")
    return site.content


def command(*arguments):
    return CliRunner().invoke(commands.main, ["download", *map(str, arguments)])


@pytest.mark.fault(
    "two processes download the same file at once", "one fetches it; the other waits, and finds it there"
)
def test_two_at_once(site, archive, folder):
    site.waits = 2  # the other one comes meanwhile
    assert [process.wait() for process in [in_a_process("birds.tgz", folder) for _ in range(2)]] == [0, 0]
    assert names(folder) == ["birds", "birds.tgz"] and len(site.asked) == 1


@pytest.mark.fault("no space is left for a download", "its bytes; the error says where to free some")
def test_no_space(folder, small_disk):
    with pytest.raises(OSError, match=r"birds\.bin could not be written \(File too large\): free some space there"):
        download.fetch("birds.bin", folder)
    assert (folder / PART).stat().st_size == 65536


@pytest.mark.parametrize("there", [False, True])
def test_the_command_fetches_and_unpacks_once(site, archive, folder, there):
    if there:
        folder.mkdir()
        (folder / "birds.tgz").write_bytes(archive)
    for options in ((), ("--no-keep-archive",)):  # the second finds nothing to do
        result = command("birds.tgz", "--root", folder, *options)
        assert result.stdout == f"{folder / 'birds'} is there; DATA_ROOT={folder / 'birds'}\n", result.stderr
    assert (folder / "birds" / "images" / "a.jpg").read_bytes() == CONTENT
    assert names(folder) == ["birds", "birds.tgz"] and len(site.asked) == (0 if there else 1)


def test_the_command_can_remove_the_archive(archive, folder):
    assert command("birds.tgz", "--root", folder, "--no-keep-archive").exit_code == 0 and names(folder) == ["birds"]


def test_the_command_fetches_a_file_that_is_no_archive(folder):
    assert command("birds.bin", "--root", folder).stdout == f"{folder / 'birds.bin'} is there\n"


@pytest.mark.fault("an archive is not the one that the table states, by one byte", "it is not unpacked")
def test_what_is_not_verified_is_not_unpacked(archive, folder):
    folder.mkdir()
    (folder / "birds.tgz").write_bytes(archive[:9] + b"\0" + archive[10:])  # gzip's note of the system: it unpacks
    result = command("birds.tgz", "--root", folder)
    assert result.exit_code == 1 and "found sha256" in result.stderr and names(folder) == ["birds.tgz"]


@pytest.mark.parametrize("name, message", [
    ("birds.tgz", "onnection ended|onnection broken"),
    ("eagles", "unknown download 'eagles'; data/downloads.csv knows birds.tgz"),
    ("birds.zip", "nobody states a checksum .*; fetch it by hand, unpack it and give the folder with a.txt as DATA_R"),
])  # fmt: skip
def test_an_error_is_one_line(site, archive, folder, table, name, message):
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


def test_git_keeps_the_table():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert subprocess.run(["git", "check-ignore", "-q", "data/downloads.csv"], cwd=ROOT).returncode == 1
