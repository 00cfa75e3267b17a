"""The page at /docs stands on its own: what it needs comes from this server, and its policy allows nothing else."""

import re
from html.parser import HTMLParser

import httpx2

from brie_processes import BrieProcesses


class _Loaded(HTMLParser):
    """What a page has the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.urls += [url for name in ("src", "href", "data-url") if (url := told.get(name))]
        if told.get("http-equiv") == "Content-Security-Policy":
            self.policy = told["content"] or ""


def test_the_page_loads_nothing_from_elsewhere(brie: BrieProcesses) -> None:
    page = httpx2.get(f"{brie.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    loaded = _Loaded()
    loaded.feed(page.text)
    assert loaded.urls
    for url in loaded.urls:
        assert url.startswith(("/docs/", "data:")), url
        assert url.startswith("data:") or httpx2.get(f"{brie.url}{url}").status_code == 200
    assert "default-src 'none'" in loaded.policy
    assert not re.search(r"https?:|\*", loaded.policy)


def test_the_script_comes_packed_and_unpacked(brie: BrieProcesses) -> None:
    url = f"{brie.url}/docs/scalar-1.46.4.js"
    packed = httpx2.get(url, headers={"accept-encoding": "gzip"})
    plain = httpx2.get(url, headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert b"@scalar/api-reference 1.46.4" in plain.content[:1000]
