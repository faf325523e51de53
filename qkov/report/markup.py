"""HTML from pieces: whatever is not markup already is text, and is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Container, Sequence
from typing import Any

from .. import canonical, escaping

VOID = frozenset({"meta", "link", "img", "input", "br", "hr"})


class Markup(str):
    """HTML that is done; every other text is escaped where it is put in."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: Any) -> Markup:
    """Write an element; an underscore behind an attribute's name is dropped, others become hyphens; None leaves it out.

    Example:
        >>> print(element("p", "1 < 2", element("b", "so"), class_="x"))
        <p class="x">1 &lt; 2<b>so</b></p>
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaping.for_html(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{written}>" if tag in VOID else f"<{tag}{written}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    """Put pieces next to each other."""
    return Markup("".join(child if isinstance(child, Markup) else escaping.for_html(child) for child in children))


def name(text: Any) -> Markup:
    """A name that others chose, set apart from the direction of the text around it."""
    return element("bdi", str(text))


def embedded_json(value: Any) -> Markup:
    """Write JSON for a script element that is not run: ASCII, with nothing that ends the element or begins a comment.

    Example:
        >>> print(embedded_json({"a": "</script>"}))
        {"a":"\\u003c/script\\u003e"}
    """
    written = canonical.canonical_json(value)
    assert json.loads(written) is not None
    for char in "<>&":
        written = written.replace(char, f"\\u{ord(char):04x}")
    return Markup(written)


def source_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data_address(content: bytes, kind: str) -> str:
    """Write bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def table(rows: Sequence[Sequence[str]], *, heads: Sequence[str] = (), numbers: Container[int] = ()) -> Markup:
    """Write a small table; columns whose place is in ``numbers`` are set as numbers."""
    kinds = [("number" if at in numbers else None) for at in range(max(map(len, rows), default=0))]
    head = element(
        "thead",
        element("tr", *(element("th", one, scope="col", class_=kind) for one, kind in zip(heads, kinds, strict=False))),
    )
    body = [
        element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=False)))
        for row in rows
    ]
    return element(
        "div", element("table", *([head] if heads else []), element("tbody", *body)), class_="scroll", tabindex="0"
    )
