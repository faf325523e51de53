"""The state of a validation run at a glance: a badge as a local picture, and a box that says where the numbers come from."""

import datetime
import os

from qkov import escaping

from .tables import table

# White on each of these has a contrast above 4.5; the words say the same as the colours.
COLOURS = {"label": "#3c4043", "passed": "#1b6e31", "failed": "#a8201a", "empty": "#8a4b00"}
WIDTH_OF_A_LETTER, HEIGHT = 6.6, 22

BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" aria-label="{label}: {text}">
<title>{label}: {text}</title>
<rect width="{width}" height="{height}" rx="4" fill="{colour}"/>
<path d="M4 0h{inner}v{height}h-{inner}a4 4 0 0 1-4-4v-{side}a4 4 0 0 1 4-4z" fill="{label_colour}"/>
<g fill="#ffffff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11">
<text x="8" y="15" textLength="{label_length}">{label}</text>
<text x="{start}" y="15" textLength="{text_length}">{text}</text>
</g>
</svg>
"""


def totals(counts, audited=()):
    """Add up (passed, failed, not run) of everything that was counted; a verdict that does not follow is a failure.

    Args:
        counts: What ``evidence.count`` returns.
        audited: What ``evidence.audit`` returns.
    """
    passed, failed, not_run = (sum(column) for column in zip(*counts.values(), strict=True))
    return passed, failed + len(audited), not_run


def state(passed, failed):
    """One word: "failed" if anything did, "empty" if nothing passed, else "passed"."""
    return "failed" if failed else "passed" if passed else "empty"


def badge(passed, failed, not_run, *, label="validation"):
    """Draw the badge as SVG, with the three numbers in it; its colour is that of :func:`state`."""
    text = f"{passed:,} passed · {failed:,} failed · {not_run:,} not run"
    lengths = [round(WIDTH_OF_A_LETTER * len(part)) for part in (label, text)]
    return BADGE.format(
        label=escaping.for_html(label),
        text=escaping.for_html(text),
        colour=COLOURS[state(passed, failed)],
        label_colour=COLOURS["label"],
        label_length=lengths[0],
        text_length=lengths[1],
        width=sum(lengths) + 32,
        inner=lengths[0] + 12,
        start=lengths[0] + 24,
        height=HEIGHT,
        side=HEIGHT - 8,
    )


def stamp():
    """The date that pages bear: of ``SOURCE_DATE_EPOCH`` where it is given, since a clock would change every copy."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return "none: SOURCE_DATE_EPOCH is not set"
    return datetime.datetime.fromtimestamp(int(given), datetime.UTC).strftime("%Y-%m-%d") + " (SOURCE_DATE_EPOCH)"


def provenance(evidence, manifest, counts):
    """A table of versions, commit, date, machine, and what ran or did not, for the first page."""
    environment = manifest.get("environment", {})
    versions = environment.get("versions", {})
    rows = [
        ["commit", str(manifest.get("commit", "unknown"))[:12]],
        ["date", stamp()],
        ["python", environment.get("python")],
        *([name, version] for name, version in versions.items()),
        ["machine", environment.get("platform")],
        ["processor", environment.get("cpu_capability")],
        ["CUDA", environment.get("cuda")],
        ["threads", environment.get("threads")],
        *([f"{name.replace('_', ' ')}: passed / failed / not run", " / ".join(map(str, row))] for name, row in counts.items()),
    ]  # fmt: skip
    left_out = [f"- {escaping.for_markdown(one['what'])}" for one in evidence.get("not_run", [])]
    missing = "\n".join(left_out) or "Nothing was left out as a whole."
    return f"{table(['property', 'value'], rows)}\nNot run in this copy:\n\n{missing}\n"


def write_status(folder, evidence, manifest, counts, audited):
    """Write `status.svg` and `provenance.md`, which the first page takes in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status.svg").write_text(badge(*totals(counts, audited)), encoding="utf-8")
    (folder / "provenance.md").write_text(provenance(evidence, manifest, counts), encoding="utf-8")
