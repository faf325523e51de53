"""The page of a report: one HTML file that needs no other and asks for none, the same bytes for the same results."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import PurePath
from typing import Any

from ..geometry import BLOCKS
from . import maps, payload, provenance, summary
from .data import ReportData
from .markup import Markup, data_address, element, embedded_json, name, source_hash, table

SCRIPTS = ("numbers.js", "slices.js", "maps.js", "details.js", "tables.js", "start.js")
BLOCK_WORDS = {"Q": "query", "K": "key", "V": "value", "O": "output"}


def write(data: ReportData, pictures: dict[str, tuple[bytes, bytes]]) -> str:
    """Write the page.

    Args:
        data: A :class:`~qkov.report.data.ReportData`.
        pictures: ``{name: (svg, png)}`` as :func:`qkov.report.figures.draw` gives them; may be empty.

    Returns:
        The text of the file.
    """
    style, script = _style(), _script()
    words = summary.summarise(data)
    content = embedded_json(payload.build(data))
    body = [
        _header(data),
        element(
            "main",
            *_opening(data, words),
            _maps_section(data),
            _tables_section(data),
            *_tests_section(data),
            _score_section(data),
            *_pictures_section(pictures),
            _provenance_section(data),
        ),
        element(
            "footer",
            element("p", "Made by qkov. Numbers on this page have six significant digits; the result files have all."),
        ),
        element("script", content, type="application/json", id="data"),
        element("script", Markup(script)),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{_title(data)} · qkov report"),
        element("style", Markup(style)),
    ]
    return f"<!DOCTYPE html>\n{element('html', element('head', *head), element('body', *body), lang='en')}\n"


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere: this script, this style, and pictures that the page holds."""
    allowed = {
        "default-src": "'none'",
        "script-src": source_hash(script),
        "style-src": source_hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _read(file: str) -> str:
    return resources.files(__package__).joinpath("assets", file).read_text(encoding="utf-8")


def _style() -> str:
    return f"{_read('page.css')}\n{maps.colour_rules()}\n"


def _script() -> str:
    parts = "\n".join(_read(file) for file in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _title(data: ReportData) -> str:
    first = data.first
    return f"{summary.named(first.task_a)} against {summary.named(first.task_b)}"


def _header(data: ReportData) -> Markup:
    first = data.first
    sizes = [
        f"{len(first.sample_a)} × {len(first.sample_b)} samples",
        f"{_counted(len(first.layers), 'layer')} × {_counted(len(first.heads), 'head')}",
        _counted(len(first.kv_heads), "kv head"),
    ]
    model = _short((data.record.get("model") or {}).get("name") or "")
    links = (
        ("summary", "Summary"),
        ("maps", "Maps"),
        ("tables", "Tables"),
        ("score", "The score"),
        ("provenance", "Provenance"),
    )
    title = element(
        "h1", name(first.task_a), element("small", "A"), " against ", name(first.task_b), element("small", "B")
    )
    return element(
        "header",
        element(
            "nav",
            element("span", "qkov report", class_="brand"),
            *(element("a", text, href=f"#{place}") for place, text in links),
            element("button", "Light or dark", type="button", id="theme"),
            aria_label="Sections",
        ),
        title,
        element("p", *([name(model), " · "] if model else []), " · ".join(sizes), class_="sizes"),
    )


def _short(model: str) -> str:
    """The folder's own name where the model is a path; a name on the hub as it is. "Provenance" has all of it."""
    return PurePath(model).name or model if model.startswith((".", "/")) else model


def _large(digits: str) -> str:
    """A number as it is if it can be counted; else its size."""
    return digits if len(digits) < 10 or not digits.isdigit() else f"about 1e{len(digits) - 1}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _opening(data: ReportData, words: summary.Summary) -> Iterator[Markup]:
    for caution in words.cautions:
        yield element("aside", element("strong", "Before the pictures: "), caution, class_="caution", role="note")
    yield element(
        "section",
        element("h2", "Summary"),
        element("p", " ".join(words.question), class_="question"),
        element("blockquote", *(element("p", sentence) for sentence in words.quotable), id="quotable"),
        element(
            "p", "These sentences may be quoted, together. They say what the data support, and no more.", class_="fine"
        ),
        id="summary",
    )


def _maps_section(data: ReportData) -> Markup:
    help_ = (
        "Point at a cell, click it, or move with the arrow keys; Enter holds it, Escape lets go. K and V weights exist once"
        " per kv head: such a cell spans the query heads that it serves."
    )
    return element(
        "section",
        element("h2", "Maps, layer by head"),
        element(
            "noscript",
            element(
                "p", "Maps, numbers of single heads and tables need JavaScript; the words do not.", class_="caution"
            ),
        ),
        element("div", id="controls", class_="controls"),
        element("p", id="note", class_="note"),
        element(
            "div",
            element(
                "div",
                element("div", *(_panel(block) for block in BLOCKS), class_="panels"),
                element("div", id="key", class_="key"),
                element("p", help_, class_="fine screen", id="keys"),
            ),
            element("aside", id="details", aria_label="The chosen head"),
            class_="explorer",
        ),
        element("p", id="said", class_="hidden", role="status", aria_live="polite"),
        id="maps",
    )


def _panel(block: str) -> Markup:
    title = element("figcaption", element("b", block), f" {BLOCK_WORDS[block]}")
    return element(
        "figure", title, element("div", class_="bar"), element("div", class_="plot", tabindex="-1"), id=f"panel-{block}"
    )


def _tables_section(data: ReportData) -> Markup:
    about_pairs = [summary.NO_PAIR_P] if data.top_pairs is None else data.top_pairs.attributes["notes"]
    parts = [
        element("h2", "Tables"),
        element("h3", "Every slice"),
        element("div", id="table-slices", class_="data"),
        element("h3", "Strongest pairs of samples, by block"),
        *(element("p", one, class_="note") for one in about_pairs),
        element("div", id="table-pairs", class_="data"),
    ]
    if data.statistics is not None or data.prediction is not None:
        parts += [element("h3", "Layers"), element("div", id="table-layers", class_="data")]
    return element("section", *parts, id="tables")


def _tests_section(data: ReportData) -> Iterator[Markup]:
    if data.statistics is None:
        reasons = [why for what, why in provenance.not_run(data) if "statistics" in what]
        said = "Nothing was tested" + "".join(f": {one.rstrip('.')}" for one in reasons[:1]) + "."
        yield element("section", element("h2", "Tests"), element("p", said), id="tests")
        return
    statistics, facts = data.statistics, data.statistics.attributes
    main = facts["tests"][statistics.main_test]
    rows = [
        ("speaks against", main["null"]),
        ("a mark says", main["claim"]),
        ("relabelled units", main["unit"]),
        (
            "relabelings",
            f"{main['n_permutations']} of {_large(main['n_distinct'])} possible; smallest possible p {main['min_p']:.3g}",
        ),
        ("seed", main["seed"]),
        (
            "independent clusters",
            ", ".join(f"{summary.named(one)}: {count}" for one, count in facts["num_clusters"].items()),
        ),
        ("family", f"{len(statistics.blocks)} slices of four blocks; K and V once per kv head"),
        ("level", f"{data.alpha:g}"),
    ]
    parts = [element("h2", "Tests"), table([(one, str(value)) for one, value in rows])]
    parts += [element("p", sentence, class_="note") for sentence in facts["notes"]]
    if facts["reliability"]:
        parts += [element("h3", "Is the map stable, and is it about the tasks?"), _reliability(statistics)]
    yield element("section", *parts, id="tests")


def _reliability(statistics: Any) -> Markup:
    frame = statistics.reliability_table()
    heads = ("map", "reliability", "correlation with B's norm", "change when tasks swap", "of a half", "slices")
    rows = [
        tuple("—" if one is None or one != one else one if isinstance(one, str) else f"{one:.3g}" for one in row)
        for row in frame.itertuples(index=False)
    ]
    return table(rows, heads=heads, numbers=range(1, len(heads)))


def _score_section(data: ReportData) -> Markup:
    parts = [element("h2", "What a score says, and what it does not")]
    for heatmap, label in zip(data.heatmaps, data.names, strict=True):
        facts = heatmap.attributes
        degrees = facts.get("loss_scale_degrees") or {}
        rows = [
            ("says", facts.get("meaning", "")),
            ("sign", facts.get("sign", "")),
            ("unit", facts.get("unit", "")),
            ("range", facts.get("range", "")),
            (
                "Fisher",
                {"A": "of task A", "B": "of task B", "pooled": "pooled over both tasks"}.get(
                    facts.get("fisher_pool"), ""
                ),
            ),
            ("Fisher from", facts.get("fisher_source", "")),
            ("damping", facts.get("damping_rule", "")),
            (
                "grows with the loss of A, B, both",
                ", ".join("no power" if one is None else f"power {one}" for one in degrees.values()),
            ),
            ("the average", facts.get("average_caveat", "")),
            ("heads together", facts.get("additivity_note", "")),
            ("slices", facts.get("slice_note", "")),
        ]
        kept = [(what, str(value)) for what, value in rows if value]
        parts += [element("h3", f"Variant {label}"), table(kept)]
    parts.append(element("p", DOES_NOT_SAY, class_="note"))
    return element("section", *parts, id="score")


DOES_NOT_SAY = (
    "A score compares parameters of one slice. It does not say what a head does, nor that a step on B harms A; that is what a"
    " predicted change is for, and only a measured change shows it. Blocks have no common scale."
)


def _pictures_section(pictures: dict[str, tuple[bytes, bytes]]) -> Iterator[Markup]:
    if not pictures:
        return
    shown = []
    for file, (svg, png) in pictures.items():
        links = element(
            "figcaption",
            f"{file}: ",
            element("a", "SVG", href=data_address(svg, "image/svg+xml"), download=f"{file}.svg"),
            ", ",
            element("a", "PNG", class_="png", download=f"{file}.png"),
        )
        shown.append(
            element(
                "figure",
                element("img", src=data_address(png, "image/png"), alt=f"Picture {file}", loading="lazy"),
                links,
            )
        )
    yield element(
        "section", element("details", element("summary", element("h2", "Figures to download")), *shown), id="figures"
    )


def _provenance_section(data: ReportData) -> Markup:
    parts = [element("h2", "Provenance")]
    for group in provenance.groups(data):
        rows = [[row[0], *(element("code", cell) for cell in row[1:])] for row in group.rows]
        parts += [element("h3", group.title), table(rows, heads=group.heads)]
    parts += [element("p", one, class_="note") for one in provenance.notes(data)]
    if missing := provenance.not_run(data):
        parts += [element("h3", "Not run"), table(missing, heads=("what", "why"))]
    return element("section", *parts, id="provenance")
