"""The public names of qkov are documented: what they do, every argument, what comes back, what is raised.

What is public: the names that ``qkov`` gives, and of the modules that it names what is in ``__all__`` or has no underscore; of
a class its methods and properties. Read from the source and the signature, so that a parameter added later asks for its line.
A docstring without sections names its arguments, between double backticks, in the sentence.
"""

import ast
import builtins
import dataclasses
import enum
import functools
import inspect
import re
import textwrap
import types
from importlib import import_module

import pytest

import qkov
from qkov import errors
from qkov.checks import CHECKS

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Example", "Examples", "Note", "Warns")

# First words of a sentence that says what something is, and not what it does.
NOUN_STARTS = {"A", "An", "The", "This", "That", "These", "Its", "All", "One", "Function", "Method", "Helper"}


def public_names(module):
    """What a module gives to others: ``__all__``, or what it defines itself under a name without underscore."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and documentable(value)
    ]


def documentable(value):
    return inspect.isclass(value) or inspect.isfunction(value)


def public_objects():
    """``{dotted name: function, class or property}`` of the whole public interface, each object once."""
    found = {f"qkov.{name}": getattr(qkov, name) for name in qkov._HOME}
    for name in qkov._MODULES:
        module = import_module(f"qkov.{name}")
        found |= {f"qkov.{name}.{one}": getattr(module, one) for one in public_names(module)}
        if name == "checks":
            found |= {f"qkov.checks.check_{law}": function for law, function in module.CHECKS.items()}
    found = {name: value for name, value in found.items() if documentable(value)}
    once = {id(value): name for name, value in reversed(found.items())}
    found = {name: value for name, value in found.items() if once[id(value)] == name}
    return found | {name: one for owner, value in found.items() for name, one in members(owner, value)}


def members(owner, value):
    """Yield the public methods and properties that a class of ours defines itself."""
    if not inspect.isclass(value) or issubclass(value, enum.Enum):
        return
    for name, one in vars(value).items():
        if not name.startswith("_") and isinstance(
            one, types.FunctionType | property | classmethod | staticmethod | functools_cached
        ):
            yield f"{owner}.{name}", one


functools_cached = functools.cached_property


def function_of(value):
    """The function behind a method or property; None for a class."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools_cached):
        return value.func
    if isinstance(value, classmethod | staticmethod):
        return value.__func__
    return value if inspect.isfunction(value) else None


def section(text, name):
    """The body of a Google section, empty if there is none.

    Example:
        >>> section("Do.\\n\\nArgs:\\n    x: One.\\n\\nReturns:\\n    Two.", "Args")
        'x: One.'
    """
    found = re.search(rf"^{name}:\n(.*?)(?=^\S|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return textwrap.dedent(found.group(1)).strip() if found else ""


def named(text):
    """Words of a section that stand before a colon: ``a, b: ...`` names two, also where a line begins with another."""
    before = re.findall(
        r"(?:^ *|(?<=[.;] ))((?:\*{0,2}\w+)(?:,\s+\*{0,2}\w+)*)(?: \([^)]*\))?:(?=\s)", text, flags=re.MULTILINE
    )
    return {word.strip().lstrip("*") for group in before for word in group.split(",")}


def parameters(value):
    """Names of the parameters that a caller gives."""
    if dataclasses.is_dataclass(value):
        return [one.name for one in dataclasses.fields(value) if one.init and not one.name.startswith("_")]
    if inspect.isclass(value):
        if issubclass(value, Exception) or value.__init__ is object.__init__:
            return []
        value = value.__init__
    names = list(inspect.signature(value).parameters)
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def tree_of(function):
    return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]


def own_nodes(tree):
    """Nodes of a function without those of functions inside it."""
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))


def raised(function):
    """Names of the errors of this package, and of Python, that a function raises itself."""
    names = set()
    for node in own_nodes(tree_of(function)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func).split(".")[-1]
            if hasattr(errors, name) or isinstance(getattr(builtins, name, None), type):
                names.add(name)
    return names - {"NotImplementedError", "AttributeError", "AssertionError"}


def gives_back(function):
    """Whether a function returns or yields anything."""
    nodes = list(own_nodes(tree_of(function)))
    return any(
        (isinstance(node, ast.Return) and node.value is not None and not is_none(node.value))
        or isinstance(node, ast.Yield | ast.YieldFrom)
        for node in nodes
    )


def is_none(node):
    return isinstance(node, ast.Constant) and node.value is None


def complaints(value):
    """Sentences about what the documentation of a public object lacks."""
    function = function_of(value)
    text = inspect.cleandoc(getattr(value, "__doc__", None) or (function and function.__doc__) or "")
    if not text:
        return ["no docstring"]
    first = text.split("\n\n")[0]
    found = [] if re.search(r"[.:]$", first) and first[0].isupper() else [f"first line is no sentence: {first!r}"]
    if function in CHECKS.values():
        return []  # a law states itself, and is called with one case
    is_method_or_function = function is not None and not isinstance(value, property | functools_cached)
    if is_method_or_function and first.split()[0] in NOUN_STARTS:
        found.append(f"first line says what it is and not what it does: {first.splitlines()[0]!r}")
    if not isinstance(value, property | functools_cached):
        given = parameters(value if inspect.isclass(value) else function)
        found += [f"parameter {name} is not explained" for name in given if not explained(name, text)]
    if function is None:
        return found
    told = section(text, "Returns") or section(text, "Yields") or first.startswith(("Return", "Yield"))
    if is_method_or_function and section(text, "Args") and not told and gives_back(function):
        found.append("no Returns or Yields")
    missing = raised(function) - set(re.findall(r"\w+", section(text, "Raises")))
    return found + [f"{name} is raised and not named under Raises" for name in sorted(missing)]


def explained(name, text):
    """Whether a parameter is named in Args or Attributes, or where there is no such section, between double backticks."""
    in_sections = named(section(text, "Args")) | named(section(text, "Attributes"))
    short = not section(text, "Args") and not section(text, "Attributes")
    return name in in_sections or (short and re.search(rf"``[^`]*\b{name}\b[^`]*``", text) is not None)


PUBLIC = public_objects()


def good(values, *, axis=0):
    """Add up values along an axis.

    Args:
        values: ``[rows, columns]``.
        axis: Which, as numpy counts
            them: from 0.

    Returns:
        Sums.

    Raises:
        ShapeError: If there is no such axis.
    """
    if axis > 1:
        raise errors.ShapeError("no such axis")
    return sum(values)


def short(values):
    """Add up ``values``."""
    return sum(values)


def undocumented(values):
    return values


def no_sentence(values):
    """add up ``values``"""


def a_noun(values):
    """The sum of ``values``."""


def one_missing(values, axis):
    """Add up values.

    Args:
        values: Along an axis: which is not told.
    """


def no_returns(values):
    """Add up values.

    Args:
        values: To add up.
    """
    return values


def a_generator(values):
    """Go through values.

    Args:
        values: To go through.
    """
    yield from values


def raises_more(values):
    """Add up values.

    Args:
        values: To add up.

    Raises:
        ShapeError: If there are none.
    """
    if not values:
        raise errors.ShapeError("none")
    raise ValueError("something else")


@dataclasses.dataclass(frozen=True)
class Unexplained:
    """Hold a value.

    Attributes:
        value: Held.
    """

    value: int
    other: int = 0


PLANTED = {
    undocumented: "no docstring",
    no_sentence: "no sentence",
    a_noun: "says what it is",
    one_missing: "parameter axis",
    no_returns: "no Returns",
    a_generator: "no Returns or Yields",
    raises_more: "ValueError is raised",
    Unexplained: "parameter other",
}


@pytest.mark.parametrize("wrong", PLANTED, ids=lambda wrong: wrong.__name__)
def test_what_lacks_something_is_found(wrong):
    (found,) = complaints(wrong)
    assert PLANTED[wrong] in found


def test_what_is_documented_is_not_found():
    assert complaints(good) == complaints(short) == []


def test_every_kind_of_public_name_is_read():
    assert len(PUBLIC) > 400
    for name in ("qkov.Heatmap", "qkov.Heatmap.data", "qkov.FisherCollector.open", "qkov.plan", "qkov.formula.damp",
                 "qkov.checks.check_padding", "qkov.errors.StoreBusyError"):  # fmt: skip
        assert name in PUBLIC, name
    assert not [name for name in PUBLIC if "._" in name]


@pytest.mark.parametrize("name", qkov._MODULES)
def test_public_module_is_documented(name):
    first = (import_module(f"qkov.{name}").__doc__ or "").split("\n\n")[0]
    assert re.search(r"[.:]$", first), first


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented(name):
    assert complaints(PUBLIC[name]) == []
