"""Sphinx extension: docstrings of the reference pages, as this project writes them.

Several arguments on one line get a line each. A property's first sentence may hold a colon. A cross reference leads to the
public name where the thing has one; a thing that exists and has none stands there as plain code. Any other reference
stays unresolved, which fails the build.
"""

import builtins
import inspect
import pkgutil
import re
from importlib import import_module

from sphinx.util.nodes import make_refnode

SECTIONS = {"Args:", "Attributes:", "Yields:", "Returns:", "Raises:", "Example:"}
# The end of a sentence, then names and a colon, as in "batch: Token ids. loss_fn: One loss per sample."
NEXT_ARGUMENT = re.compile(r"(?<=[.;]) (?=[a-z_]\w*(?:, [a-z_]\w*)*: )")
SEVERAL = re.compile(r"^(\s*)([a-z_]\w*(?:, [a-z_]\w*)+):")
TYPED_RETURN = re.compile(r"^(:returns: (?:\* )?)\*(.+?)\* -- ")
WITHOUT_SECTIONS = ("property", "attribute", "data")
saved = {}  # name of an attribute -> its docstring as written
# Between names that share a description; after a space Sphinx would take the first of them for a type.
JOINED = ",\u200b"


def split_arguments(lines, names):
    """Break lines of the sections "Args" and "Attributes" before each further argument.

    Args:
        lines: Of a docstring in Google's form, changed in place.
        names: Arguments that there are; other words before a colon are prose.
    """
    result, inside, depth = [], False, 0
    for line in lines:
        if line.strip() in SECTIONS:
            inside, depth = line.strip() in ("Args:", "Attributes:"), None
        elif inside and line.strip():
            depth = len(line) - len(line.lstrip()) if depth is None else depth
            first, *others = NEXT_ARGUMENT.split(line)
            parts = [first]
            for other in others:
                if set(other.split(":")[0].split(", ")) <= names:
                    parts.append(" " * depth + other)
                else:
                    parts[-1] += " " + other
            result += [SEVERAL.sub(lambda found: found[0].replace(", ", JOINED), part) for part in parts]
            continue
        result.append(line)
    lines[:] = result


def process(app, what, name, thing, options, lines):
    """Called by autodoc with every docstring, before napoleon reads its sections."""
    if what in WITHOUT_SECTIONS:
        saved[name] = list(lines)
        return
    try:
        names = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return
    split_arguments(lines, names)


def restore(app, what, name, thing, options, lines):
    """Called after napoleon, which takes what precedes a colon for a type, in a property's first line and in "Returns"."""
    if what in WITHOUT_SECTIONS:
        lines[:] = saved.pop(name)
    else:
        lines[:] = [TYPED_RETURN.sub(r"\1\2: ", line) for line in lines]


def find(path):
    """The thing behind a dotted path below `qkov`; LookupError if there is none."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            fields = getattr(thing, "__dataclass_fields__", {})
            if not hasattr(thing, part) and part not in fields:
                raise LookupError(path)
            thing = getattr(thing, part, None)
        return thing
    raise LookupError(path)


def candidates(node):
    """Dotted paths that a reference may mean: as written, within its class, within its module, within any module."""
    target, module, owner = node["reftarget"], node.get("py:module"), node.get("py:class")
    yield target
    if owner:
        yield f"{module}.{owner}.{target}"
    if "." not in target:
        package = import_module("qkov")
        for found in pkgutil.walk_packages(package.__path__, "qkov."):
            if found.name != "qkov.__main__":
                yield f"{found.name}.{target}"


def resolve(app, env, node, content):
    """Called by Sphinx with every reference that it cannot resolve."""
    if node.get("refdomain") != "py":
        return None
    if hasattr(builtins, node["reftarget"]):
        return content
    for path in candidates(node):
        if not path.startswith("qkov"):
            continue
        try:
            thing = find(path)
        except LookupError:
            continue
        return link(app, env, node, content, path, thing)
    return None


def link(app, env, node, content, path, thing):
    """A link to the public name of the thing, or the words alone if it has none."""
    last = path.rsplit(".", 1)[-1]
    for name, entry in env.get_domain("py").objects.items():
        if thing is not None and name.rsplit(".", 1)[-1] == last and find(name) is thing:
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)
    return content


def setup(app):
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=100)  # napoleon has the default, 500
    app.connect("autodoc-process-docstring", restore, priority=900)
    app.connect("missing-reference", resolve)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
