"""Reads the page of a report: its text, its elements, and the numbers that its script has."""

import html.parser
import json
import re

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(html.parser.HTMLParser):
    """The elements of a page and its text without scripts and styles; an element that is not closed is an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source, self.text, self.elements, self._open = text, "", [], []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.text += f"{data} "

    @property
    def words(self):
        """The text on one line."""
        return " ".join(self.text.split())

    @property
    def data(self):
        """What the script of the page reads."""
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.source, re.DOTALL)
        return json.loads(found.group(1))

    @property
    def columns(self):
        """Name to the values of every column."""
        return {one["name"]: one["values"] for one in self.data["columns"]}

    def slice_labels(self):
        """``(block, layer, unit)`` in true numbers of every slice, in order."""
        slices, grid = self.data["slices"], self.data["grid"]
        return [
            (block, grid["layers"][layer], grid["kv_heads" if block in "KV" else "heads"][unit])
            for block, layer, unit in zip(slices["block"], slices["layer"], slices["unit"], strict=True)
        ]
