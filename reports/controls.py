"""Notebooks that must be refused: they show, every time, that the comparison of notebooks can fail."""

from dataclasses import dataclass

from validation import offline

from . import notebooks

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

```{code-cell} ipython3
"""

# Name -> (source of one cell, what the refusal must say). The random number is planted between things that repeat.
CONTROLS = {
    "random-number": ("import random\nprint('score', 1.25)\nprint(random.random())", "first difference"),
    "object-address": ("object()", "object address"),
    "text-on-stderr": ("import sys\nprint('careful', file=sys.stderr)", "stderr"),
    "exception": ("1 / 0", "ZeroDivisionError"),
    # An address that no machine has; the attempt is refused in the kernel before anything is sent.
    "network": ("import socket\nsocket.create_connection(('192.0.2.1', 9), 1)", offline.SAID),
}
# And one that must pass: a comparison that refuses everything proves nothing.
CLEAN = ("clean", "import random\nrandom.seed(0)\nprint(random.random())")


@dataclass(frozen=True)
class Control:
    """A planted notebook, whether it was judged as it must be, and what was said about it."""

    name: str
    passed: bool
    said: str


def run_controls(folder, *, jobs=2):
    """Execute the planted notebooks twice and judge the judgement.

    Args:
        folder: Where their sources are written.
        jobs: Executions that run at the same time.

    Returns:
        One :class:`Control` each; `passed` means refused for the right reason; accepted, for the clean one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = {**{name: source for name, (source, _) in CONTROLS.items()}, CLEAN[0]: CLEAN[1]}
    for name, source in cells.items():
        (folder / f"{name}.md").write_text(f"{HEADER}{source}\n```\n", encoding="utf-8")
    compared = notebooks.execute_twice([folder / f"{name}.md" for name in cells], jobs=jobs)
    return [judge(comparison) for comparison in compared]


def judge(comparison):
    """Turn the comparison of a planted notebook into a :class:`Control`."""
    said = "\n".join(filter(None, [*comparison.problems, comparison.difference]))
    if comparison.name == CLEAN[0]:
        return Control(comparison.name, comparison.passed, said or "identical")
    _, reason = CONTROLS[comparison.name]
    return Control(comparison.name, not comparison.passed and reason in said, said or "identical")
