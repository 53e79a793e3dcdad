"""What a page must be that opens from the disk, and nothing else: read by the tests of the report and of the runner."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

VOID = {"meta", "br", "hr", "img", "input", "wbr", "col"}
ACTIVE = {"script", "iframe", "object", "embed", "link", "base", "form", "video", "audio"}


class Page(HTMLParser):
    """A page's tags with their attributes, its text, and its prose, which is the text that is no code.

    An AssertionError where a tag is not closed in its turn.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.tags, self.text, self.prose, self.open = path, [], "", "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"{path.name}: never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"{self.path.name}, line {self.getpos()[0]}: </{tag}> closes nothing"
        assert self.open[-1] == tag, f"{self.path.name}, line {self.getpos()[0]}: </{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data
            self.prose += "" if "pre" in self.open else data

    def all(self, tag: str) -> list[dict]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]


def check(path: Path) -> Page:
    """Read a page: nothing in it acts, asks a network, or leads nowhere."""
    page = Page(path)
    assert page.source.lstrip().startswith("<!DOCTYPE html>") and "viewport" in [
        m.get("name") for m in page.all("meta")
    ]
    assert not {tag for tag, _ in page.tags} & ACTIVE
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names)), "a name twice"
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for link in (attributes[name] for name in ("src", "href") if name in attributes):
            if link.startswith("data:image/" if tag == "img" else "https://"):
                continue
            file, _, part = unquote(link).partition("#")
            assert not re.match(r"[a-z]+:|/", link), f"{path.name}: <{tag}> leads to {link[:80]}"
            assert (path.parent / file).is_file() if file else part in names, f"{path.name}: no {link[:80]}"
    assert all(image.get("alt") for image in page.all("img"))
    assert not re.search(r"url\(|@import", page.source.partition("</style>")[0])
    assert not re.search(r"\$[^$\n]+\$|\\(frac|sum|odot|eta)\b", page.prose), "a formula as LaTeX"
    return page
