"""Downloads go on where they were cut, are verified before they have a name, and the table says only what is known."""

import csv
import hashlib
import http.server
import io
import re
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from torchvision.models import get_weight

from wsol_utils import __main__ as commands
from wsol_utils import downloads
from wsol_utils.data.layouts import DatasetError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
HALF = 400_000
PART = ".birds.bin.partial"


@dataclass
class Site:
    """What the server on this machine offers, and what it was asked."""

    content: bytes = CONTENT
    tag: str = '"one"'
    ranges: bool = True
    stop_at: int = 0  # bytes of an answer after which the connection is cut
    stalls: bool = False  # or, in place of the cut, nothing more comes
    length: int | None = None  # that the header claims, if not the true one; -1 for no header
    status: int = 0  # an error in place of the file
    location: str = ""  # a redirect in place of the file
    part_from: int | None = None  # where the part really begins, if not where it was asked
    port: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers
        self.asked.append(dict(asked.items()))
        self.sent.append(0)
        if self.status or (self.location and handler.path == "/birds.bin"):
            handler.send_response(self.status or 302)
            handler.send_header("Location", self.location)
            return handler.end_headers()
        start, body = 0, self.content
        if self.ranges and "Range" in asked and asked.get("If-Range", self.tag) == self.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked["Range"])[1])
            if start >= len(self.content):
                handler.send_response(416)
                return handler.end_headers()
            start = start if self.part_from is None else self.part_from
            body = self.content[start:]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", self.tag)
        if self.length != -1:
            handler.send_header("Content-Length", str(len(body) if self.length is None else self.length))
        handler.end_headers()
        body = body[: self.stop_at] if self.stop_at else body
        handler.wfile.write(body)
        self.sent[-1] = len(body)
        if self.stalls:
            self.over.wait(20)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            site.answer(self)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def table(site, tmp_path, monkeypatch):
    """A function that makes a table of one download: birds.bin at the server, unless told otherwise."""

    def make(content=CONTENT, **values):
        row = {
            "name": "birds.bin",
            "what": "made-up birds",
            "url": f"http://127.0.0.1:{site.port}/birds.bin",
            "bytes": len(content),
            "algorithm": "sha256",
            "checksum": hashlib.sha256(content).hexdigest(),
            "stated_by": "this test",
            "verified_here": "no",
            "unpacks_to": values.get("name", "birds.bin"),
            "files": 10,
            "unpacked_bytes": 10_000_000,
            "data_root": "",
        } | values
        path = tmp_path / "table.csv"
        with open(path, "w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, list(row))
            writer.writeheader()
            writer.writerow(row)
        monkeypatch.setattr(downloads, "TABLE", path)

    make()
    return make


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def names(folder):
    """What lies in a folder, but for the lock."""
    return sorted({path.name for path in folder.iterdir()} - {".downloads.lock"}) if folder.exists() else []


def part_of(folder, content):
    """A partial file, as an interruption leaves it."""
    folder.mkdir()
    (folder / PART).write_bytes(content)
    (folder / f"{PART}.stamp").write_text('"one"')


# A download.


def test_fetched_verified_and_not_fetched_again(site, table, folder):
    path = downloads.fetch("birds.bin", folder)
    assert path == folder / "birds.bin" and path.read_bytes() == CONTENT and names(folder) == ["birds.bin"]
    assert "Range" not in site.asked[0] and "urllib" not in site.asked[0]["User-Agent"]
    assert downloads.fetch("birds.bin", folder) == path and len(site.asked) == 1


@pytest.mark.fault("the connection ends in the middle of a download", "its bytes; the next call asks for the rest only")
def test_a_cut_download_goes_on(site, table, folder):
    site.stop_at = HALF
    told = f"the connection ended after {HALF} of 1024000 bytes; they are kept: run again, and it goes on"
    with pytest.raises(DatasetError, match=told):
        downloads.fetch("birds.bin", folder)
    assert names(folder) == [PART, f"{PART}.stamp"] and (folder / PART).stat().st_size == HALF
    site.stop_at = 0
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT and names(folder) == ["birds.bin"]
    assert site.asked[1]["Range"] == f"bytes={HALF}-" and site.asked[1]["If-Range"] == '"one"'
    assert site.sent == [HALF, len(CONTENT) - HALF]


@pytest.mark.fault("SIGKILL in the middle of a download", "its bytes; the next call asks for the rest only")
def test_a_killed_download_goes_on(site, table, folder, tmp_path):
    site.stop_at, site.stalls = HALF, True
    script = (
        "import sys; from pathlib import Path; from wsol_utils import downloads\n"
        "downloads.TABLE = Path(sys.argv[1]); downloads.fetch('birds.bin', sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "table.csv", folder])
    part = folder / PART
    while not (part.exists() and part.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and names(folder) == [PART, f"{PART}.stamp"]
    kept = part.stat().st_size
    assert 0 < kept <= HALF
    site.stop_at, site.stalls = 0, False
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT
    assert site.asked[1]["Range"] == f"bytes={kept}-" and site.sent[1] == len(CONTENT) - kept


@pytest.mark.fault("a server falls silent in the middle of a download", "its bytes, after a time-out")
def test_a_silent_server_is_left(site, table, folder, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 2)
    site.stop_at, site.stalls = HALF, True
    with pytest.raises(DatasetError, match=f"timed out after {HALF} of 1024000 bytes"):
        downloads.fetch("birds.bin", folder)
    assert (folder / PART).stat().st_size == HALF


@pytest.mark.fault("a server cannot send parts of a file", "the download starts over")
def test_a_server_without_parts(site, table, folder):
    part_of(folder, b"x" * HALF)
    site.ranges = False
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT
    assert site.asked[0]["Range"] == f"bytes={HALF}-" and site.sent == [len(CONTENT)]


@pytest.mark.fault("the file changes at its source between two halves of a download", "the download starts over")
def test_a_changed_file_comes_whole(site, table, folder):
    part_of(folder, b"of the old file" * 100)
    site.tag = '"two"'
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT
    assert site.asked[0]["If-Range"] == '"one"' and site.sent == [len(CONTENT)]


def test_a_server_that_says_416_is_asked_for_all(site, table, folder):
    part_of(folder, CONTENT[:HALF])
    site.content = CONTENT[:HALF]
    with pytest.raises(DatasetError, match="400000 bytes are offered where 1024000 are expected"):
        downloads.fetch("birds.bin", folder)
    assert "Range" in site.asked[0] and "Range" not in site.asked[1]


@pytest.mark.fault("a server sends another part than it was asked for", "nothing of it; the next call starts over")
def test_another_part_is_not_taken(site, table, folder):
    part_of(folder, CONTENT[:HALF])
    site.part_from = 7
    with pytest.raises(DatasetError, match="another part than it was asked for"):
        downloads.fetch("birds.bin", folder)
    assert names(folder) == []


def test_a_partial_file_that_is_whole_needs_no_server(site, table, folder):
    part_of(folder, CONTENT)
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT
    assert site.asked == [] and names(folder) == ["birds.bin"]


def test_a_partial_file_that_is_too_long_is_dropped(site, table, folder):
    part_of(folder, CONTENT + b"more")
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT and "Range" not in site.asked[0]


@pytest.mark.fault("a download has the right size and the wrong bytes", "nothing of it; both checksums are said")
@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_wrong_bytes_get_no_name(site, table, folder, algorithm):
    wrong, right = (hashlib.new(algorithm, content).hexdigest() for content in (CONTENT[::-1], CONTENT))
    table(algorithm=algorithm, checksum=right)
    site.content = CONTENT[::-1]
    told = rf"{site.port}/birds.bin gave another file: expected {algorithm} {right} \(this test\), "
    told += f"found {algorithm} {wrong}"
    with pytest.raises(DatasetError, match=told + "; what came was removed: run again"):
        downloads.fetch("birds.bin", folder)
    assert names(folder) == []


@pytest.mark.fault("a server offers a file of another size", "nothing is downloaded; both sizes are said")
@pytest.mark.parametrize("length", [len(CONTENT) + 1, 17])
def test_another_length_is_refused(site, table, folder, length):
    site.length = length
    with pytest.raises(DatasetError, match=f"{length} bytes are offered where 1024000 are expected"):
        downloads.fetch("birds.bin", folder)
    assert names(folder) == []


def test_a_page_in_place_of_the_file_costs_no_partial_file(site, table, folder):
    part_of(folder, CONTENT[:HALF])
    site.content, site.ranges = b"<html>sign in</html>", False
    with pytest.raises(DatasetError, match="20 bytes are offered"):
        downloads.fetch("birds.bin", folder)
    assert (folder / PART).read_bytes() == CONTENT[:HALF]


@pytest.mark.fault("a server sends without end, or more than it says", "the stated number of bytes, and no more")
@pytest.mark.parametrize("length", [-1, len(CONTENT)])
def test_no_more_than_the_stated_bytes_is_read(site, table, folder, length):
    site.content, site.length = CONTENT + b"x" * 5_000_000, length
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT


def test_no_length_and_too_few_bytes(site, table, folder):
    site.content, site.length = CONTENT[:HALF], -1
    with pytest.raises(DatasetError, match=f"the connection ended after {HALF} of 1024000"):
        downloads.fetch("birds.bin", folder)
    assert (folder / PART).stat().st_size == HALF


def test_an_error_of_the_server(site, table, folder):
    site.status = 403
    with pytest.raises(DatasetError, match=r"the server answers 403 Forbidden; .*fetch it by hand into .*data"):
        downloads.fetch("birds.bin", folder)
    assert names(folder) == []


def test_no_server(site, table, folder):
    table(url="http://127.0.0.1:9/birds.bin")
    with pytest.raises(DatasetError, match=r"127\.0\.0\.1:9/birds\.bin: no answer \(.*refused"):
        downloads.fetch("birds.bin", folder)


def test_a_redirect_is_followed_with_the_range(site, table, folder):
    part_of(folder, CONTENT[:HALF])
    site.location = f"http://127.0.0.1:{site.port}/elsewhere"
    assert downloads.fetch("birds.bin", folder).read_bytes() == CONTENT
    assert site.asked[1]["Range"] == f"bytes={HALF}-"


@pytest.mark.fault("a server redirects to a file of this machine, or to ftp", "nothing is read there")
@pytest.mark.parametrize("scheme", ["file://", "ftp://127.0.0.1"])
def test_a_redirect_elsewhere_is_not_followed(site, table, folder, tmp_path, scheme):
    (tmp_path / "secret").write_bytes(CONTENT)  # it would even pass
    site.location = f"{scheme}{tmp_path}/secret"
    with pytest.raises(DatasetError, match=r"the server answers 302|unknown url type"):
        downloads.fetch("birds.bin", folder)
    assert names(folder) == []


def test_no_address_but_http(site, table, folder, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    table(url=f"file://{tmp_path}/secret")
    with pytest.raises(DatasetError, match="unknown url type: file"):
        downloads.fetch("birds.bin", folder)


@pytest.mark.fault("the file in a download's place is another one", "it stays, and is not used")
@pytest.mark.parametrize("content, found", [(b"short", "5 bytes"), (CONTENT[::-1], "sha256 ")])
def test_another_file_in_its_place(site, table, folder, content, found):
    folder.mkdir()
    (folder / "birds.bin").write_bytes(content)
    with pytest.raises(DatasetError, match=f"not the file that http.* found {found}.*; remove it and run again"):
        downloads.fetch("birds.bin", folder)
    assert (folder / "birds.bin").read_bytes() == content and site.asked == []


def test_what_nobody_vouches_for_is_said_to_be_unverified(site, table, folder, capsys):
    table(algorithm="", checksum="", stated_by="nobody")
    downloads.fetch("birds.bin", folder)
    assert "birds.bin: could not be verified: nobody states a checksum" in capsys.readouterr().err


@pytest.fixture
def small_disk():
    """No file may be larger than 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# A download that is an archive.


@pytest.fixture
def archive(site, table):
    """The server offers birds.tgz with one photograph in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        member = tarfile.TarInfo("birds/images/a.jpg")
        member.size = len(CONTENT)
        opened.addfile(member, io.BytesIO(CONTENT))
    site.content = packed.getvalue()
    table(site.content, name="birds.tgz", unpacks_to="birds", data_root="birds")
    return site.content


def download(*arguments):
    return CliRunner().invoke(commands.main, ["download", *map(str, arguments)])


@pytest.mark.fault(
    "two processes download the same file at once", "one fetches it; the other waits, and finds it there"
)
def test_two_at_once(site, archive, folder):
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: downloads.get("birds.tgz", folder), range(3)))
    assert found == [folder / "birds"] * 3 and names(folder) == ["birds", "birds.tgz"]
    assert len(site.asked) == 1


@pytest.mark.fault("no space is left for a download", "its bytes; the error says where to free some")
def test_no_space(site, table, folder, small_disk):
    with pytest.raises(OSError, match=r"birds\.bin could not be written \(File too large\): free some space there"):
        downloads.fetch("birds.bin", folder)
    assert (folder / PART).stat().st_size == 65536


def test_the_command_fetches_and_unpacks_once(site, archive, folder):
    for _ in range(2):
        result = download("birds.tgz", "--root", folder)
        assert result.exit_code == 0 and result.stdout == f"{folder / 'birds'} is there; DATA_ROOT={folder / 'birds'}\n"
    assert (folder / "birds" / "images" / "a.jpg").read_bytes() == CONTENT
    assert names(folder) == ["birds", "birds.tgz"] and len(site.asked) == 1


def test_the_command_can_remove_the_archive(archive, folder):
    assert download("birds.tgz", "--root", folder, "--no-keep-archive").exit_code == 0
    assert names(folder) == ["birds"]


def test_the_command_unpacks_an_archive_that_is_there(site, archive, folder):
    folder.mkdir()
    (folder / "birds.tgz").write_bytes(archive)
    assert download("birds.tgz", "--root", folder).exit_code == 0
    assert names(folder) == ["birds", "birds.tgz"] and site.asked == []


def test_the_command_fetches_a_file_that_is_no_archive(table, folder):
    result = download("birds.bin", "--root", folder)
    assert result.exit_code == 0 and result.stdout == f"{folder / 'birds.bin'} is there\n"


def test_an_error_is_one_line(site, archive, folder, table):
    site.stop_at = 100
    by_hand = (
        "has no address to fetch it from, made-up birds; fetch it by hand, unpack it and give the folder with a.txt"
    )
    for arguments, message in {
        ("birds.tgz",): "the connection ended after 100",
        ("eagles",): "unknown download 'eagles'; data/downloads.csv knows birds.tgz",
    }.items():
        result = download(*arguments, "--root", folder)
        assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1
    table(url="", name="birds.zip", unpacks_to="a.txt")
    result = download("birds.zip", "--root", folder)
    assert result.exit_code == 1 and by_hand in result.stderr and result.stderr.count("\n") == 1


# The table.

ROWS = downloads.table()
ROOT = Path(__file__).parents[1]
README = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
WEIGHTS = {"vgg16": "VGG16_Weights", "resnet50": "ResNet50_Weights", "squeezenet1_1": "SqueezeNet1_1_Weights"}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_row_is_whole(row):
    assert len(row.checksum) == {"": 0, "md5": 32, "sha256": 64}[row.algorithm]
    assert re.fullmatch("[0-9a-f]*", row.checksum)
    assert row.stated_by == "nobody" if not row.checksum else row.stated_by.startswith(("publisher: ", "secondary: "))
    assert row.verified_here == "no" and row.what
    for name in (row.name, row.unpacks_to, row.data_root or "x"):
        assert re.fullmatch(r"\w[\w.-]*", name)
    if row.url:
        url = urlsplit(row.url)
        assert url.scheme in ("http", "https") and url.hostname and url.path.endswith("/" + row.name)
        assert row.bytes and row.files and row.bytes <= row.unpacked_bytes
    else:
        assert not (row.bytes or row.files or row.unpacked_bytes or row.checksum)


def test_the_data_sets_can_be_fetched():
    assert {"CUB_200_2011.tgz", "segmentations.tgz", "tiny-imagenet-200.zip"} <= {n for n, r in ROWS.items() if r.url}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_that_torchvision_fetches(name):
    weights = get_weight(f"{WEIGHTS[name]}.IMAGENET1K_V1")
    [row] = [row for row in ROWS.values() if row.name.startswith(f"{name}-")]
    assert row.url == weights.url
    assert row.name == f"{name}-{row.checksum[:8]}.pth"  # torchvision compares these digits itself
    assert round(row.bytes / 2**20, 3) == weights.meta["_file_size"]


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_the_readme_shows_the_row(row):
    checksum = f"{row.algorithm} `{row.checksum}`" if row.checksum else "none"
    size = f"{row.bytes:,}" if row.bytes else ""
    cells = (f"`{row.name}`", row.what, size, checksum, row.stated_by, row.verified_here)
    assert f"| {' | '.join(cells)} |" in README


def test_the_readme_shows_no_other_row():
    section = README.split("## Downloads")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| `", section, flags=re.MULTILINE)) == len(ROWS)


def test_git_keeps_the_table():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    ignored = subprocess.run(["git", "check-ignore", "-q", "data/downloads.csv"], cwd=ROOT).returncode
    assert ignored == 1
