"""Follow every link of a built book: files and places that it names exist; other machines are on a list, and are not asked."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Hosts that pages may send a reader to. A new one is added here by hand, so that a mistyped address does not pass.
HOSTS = {"github.com", "mutmut.readthedocs.io"}
ADDRESSES = {"a": "href", "img": "src", "link": "href", "script": "src", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """Collects the addresses that a page names and the places in it that can be named."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.places = [], {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Note the id of an element, and where it leads."""
        given = dict(attributes)
        self.places.update(filter(None, (given.get("id"), given.get("name") if tag == "a" else None)))
        if address := given.get(ADDRESSES.get(tag, "")):
            self.addresses.append((tag, address))


def broken_links(html):
    """List links to files or places that do not exist, and to hosts that are not on the list.

    Args:
        html: Folder of the built book.
    """
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(html.rglob("*.html"))}
    pages = {path: page for path, page in pages.items() if "_static" not in path.relative_to(html).parts}
    found = []
    for path, page in pages.items():
        for address in dict.fromkeys(address for _, address in page.addresses):
            if wrong := objection(address, path, pages):
                found.append(f"{path.relative_to(html)}: {address} {wrong}")
    return found


def objection(address, path, pages):
    """What is wrong with an address on a page, or an empty string."""
    parts = urlsplit(address)
    if parts.scheme in ("data", "mailto", "javascript"):
        return ""
    if parts.scheme or parts.netloc:
        return "" if parts.hostname in HOSTS else "is on a host that reports/link_check.py does not list"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.exists():
        return "leads to no file"
    if target.suffix != ".html" or not parts.fragment:
        return ""
    places = next((page.places for one, page in pages.items() if one.resolve() == target.resolve()), None)
    return "" if places is None or unquote(parts.fragment) in places else "leads to no place on that page"


def external_links(html):
    """Addresses on other machines that a reader is sent to, each once, in order."""
    pages = (Page(path.read_text(encoding="utf-8")) for path in sorted(Path(html).rglob("*.html")))
    return sorted(
        {address for page in pages for tag, address in page.addresses if tag == "a" and urlsplit(address).netloc}
    )
