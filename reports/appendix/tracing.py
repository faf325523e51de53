r"""Where a printed number comes from: values of the evidence that remember their place while tables are made of them.

:func:`traced` wraps a JSON document. Its numbers are ordinary ints and floats that also hold the places they stand for, JSON
pointers such as ``evidence.json#/results/3/error``; sums and differences hold those of both parts. When one is formatted, a
mark with the number of its places follows the digits. Whoever makes a table needs to know nothing of it: marks pass through
Markdown, :func:`sources_of` reads them, and :func:`unmarked` takes them away again.
"""

import operator
import re
from dataclasses import dataclass, field

from .. import tables

MOST = 20
"""Places that are listed for a number; of more, the rest are counted."""
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)*(?:e[-+]?\d+)?(?![\w])")
MARK = re.compile("\u27e6(\\d+)\u27e7")
"""White square brackets: printable, so that nothing escapes them, and in no text of ours."""


@dataclass
class Log:
    """What was formatted and what was read.

    Attributes:
        places: By the number of a mark, the places of what it follows.
        read: Patterns of places that were read, with ``*`` for places in a list; a set that keeps its order.
    """

    places: list = field(default_factory=list)
    read: dict = field(default_factory=dict)

    def mark(self, text, places):
        """Put a mark behind the digits of a formatted number."""
        self.places.append(places)
        stripped = text.rstrip(" %")
        return f"{stripped}\u27e6{len(self.places) - 1}\u27e7{text[len(stripped) :]}"


def unmarked(text):
    """The text as it is without a trace."""
    return MARK.sub("", text)


def _traced_number(kind):
    class Traced(kind):
        """A number that knows its places."""

        def __new__(cls, value, places, log):
            self = super().__new__(cls, value)
            self.places, self.log = places, log
            return self

        def __format__(self, spec):
            return self.log.mark(kind.__format__(self, spec), self.places)

        def __str__(self):
            return self.log.mark(kind.__repr__(self), self.places)

        __repr__ = __str__

        def __reduce__(self):
            return kind, (kind(self),)

        def __copy__(self):
            return self

        def __deepcopy__(self, memo):
            return self

    return Traced


_INT, _FLOAT = _traced_number(int), _traced_number(float)


def _combine(name):
    plain = getattr(operator, name)

    def forward(self, other):
        return combined(plain, self, other)

    def backward(self, other):
        return combined(plain, other, self)

    for kind in (_INT, _FLOAT):
        setattr(kind, f"__{name}__", forward)
        setattr(kind, f"__r{name}__", backward)


def combined(function, one, two):
    """Apply an operation to plain numbers; the result holds the places of both."""
    log = getattr(one, "log", None) or two.log
    places = {**dict.fromkeys(getattr(one, "places", ())), **dict.fromkeys(getattr(two, "places", ()))}
    return number(function(untraced(one), untraced(two)), tuple(places), log)


for _name in ("add", "sub", "mul", "truediv"):
    _combine(_name)


def untraced(value):
    """The plain number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, int) else float(value)


def number(value, places, log):
    """Wrap a number; what is none, booleans too, stays as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return (_INT if isinstance(value, int) else _FLOAT)(value, places, log)


class TracedDict(dict):
    """A dictionary that notes which texts and numbers are read out of it."""

    def __init__(self, value, place, log):
        super().__init__({key: traced(item, f"{place}/{escaped(key)}", log) for key, item in value.items()})
        self._place, self._log = place, log

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if not isinstance(value, dict | list):
            self._log.read[re.sub(r"/\d+(?=/|$)", "/*", f"{self._place}/{escaped(key)}")] = None
        return value

    def get(self, key, default=None):
        """As of a dictionary; noted too."""
        return self[key] if key in self else default  # noqa: SIM401, which would call itself


def escaped(key):
    """A key as a part of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def traced(value, place, log):
    """Wrap a JSON document; ``place`` names it, as in ``evidence.json#``."""
    if isinstance(value, dict):
        return TracedDict(value, place, log)
    if isinstance(value, list):
        return [traced(item, f"{place}/{index}", log) for index, item in enumerate(value)]
    return number(value, (place,), log)


def resolve(documents, place):
    """Read the value at a place out of ``{name: document}``."""
    name, _, pointer = place.partition("#")
    value = documents[name]
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def words_of(value, place, found=None):
    """Every word with a digit in a text of a document, and every broken number as tables write it: ``{word: (kind, place)}``.

    The second are found here where a table turns a number into another before it is formatted, which loses the trace.
    """
    found = {} if found is None else found
    if isinstance(value, dict):
        for key, item in value.items():
            for word in NUMBER.findall(str(key)):
                found.setdefault(word, ("text", f"{place}/{escaped(key)}"))
            words_of(item, f"{place}/{escaped(key)}", found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            words_of(item, f"{place}/{index}", found)
    elif isinstance(value, str):
        for word in NUMBER.findall(value):
            found.setdefault(word, ("text", place))
    elif isinstance(value, float):
        found.setdefault(tables.number(value), ("value", place))
    return found


def sources_of(text, log, words, made_by):
    """Say of every number in a marked text where it comes from.

    Args:
        text: As it was made of traced documents.
        log: Of what made it.
        words: From :func:`words_of`.
        made_by: The function or constant that made it.

    Returns:
        ``[{"shown", "kind", "sources", "more"}]``. kind is "value" (one number of the evidence), "combined" (computed from
        several), "text" (a word of a text in it), "count" (of entries whose patterns are the sources) or "wording" (what
        the program says itself).
    """
    found, number = [], re.compile(f"{NUMBER.pattern}|{MARK.pattern}")
    for match in number.finditer(text):
        if match[1] is not None:
            if found:
                places = list(log.places[int(match[1])])
                found[-1] |= {"kind": "value" if len(places) == 1 else "combined", "sources": places}
            continue
        shown = match[0]
        whole = shown == text.strip() and re.fullmatch(r"[\d,]+", shown)  # a cell of its own: no part of a name
        if shown in words and not whole:
            kind, place = words[shown]
            found.append({"shown": shown, "kind": kind, "sources": [place]})
        elif log.read and re.fullmatch(r"[\d,]+", shown):
            found.append({"shown": shown, "kind": "count", "sources": list(log.read)})
        else:
            found.append({"shown": shown, "kind": "wording", "sources": [made_by]})
    for entry in found:
        if len(entry["sources"]) > MOST:
            entry["more"] = len(entry["sources"]) - MOST
            entry["sources"] = entry["sources"][:MOST]
    return found
