"""Every link of a built book is followed: files, places on pages, and hosts from a list."""

import pytest

from reports import link_check

PAGE = '<html><body><h1 id="title">x</h1>{}</body></html>'


@pytest.fixture
def html(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.html").write_text(PAGE.format('<a name="old"></a><p id="späte">.</p>'))
    (tmp_path / "picture.svg").write_text("<svg/>")
    return tmp_path


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ('<a href="other/b.html">b</a>', ""),
        ('<a href="other/b.html#title">b</a>', ""),
        ('<a href="other/b.html#old">b</a>', ""),
        ('<a href="other/b.html#sp%C3%A4te">b</a>', ""),
        ('<a href="#title">here</a>', ""),
        ('<a href="#">top</a>', ""),
        ('<img src="picture.svg">', ""),
        ('<img src="data:image/png;base64,AAAA">', ""),
        ('<a href="https://github.com/x/y">out</a>', ""),
        ('<a href="other/c.html">b</a>', "leads to no file"),
        ('<img src="missing.svg">', "leads to no file"),
        ('<a href="other/b.html#new">b</a>', "leads to no place on that page"),
        ('<a href="#nowhere">here</a>', "leads to no place on that page"),
        ('<a href="https://githob.com/x/y">out</a>', "is on a host that reports/link_check.py does not list"),
        ('<a href="//example.org">out</a>', "is on a host that reports/link_check.py does not list"),
    ],
)
def test_a_link_is_followed(html, tag, said):
    (html / "a.html").write_text(PAGE.format(tag))
    found = link_check.broken_links(html)
    assert [one.split(" ", 2)[2] for one in found] == ([said] if said else [])


def test_external_links_are_listed_once(html):
    (html / "a.html").write_text(
        PAGE.format('<a href="https://github.com/x">1</a><a href="https://github.com/x">2</a>')
    )
    assert link_check.external_links(html) == ["https://github.com/x"]
