"""What a mutant changed: the lines before and after, and whether only the words of a message are others.

Needs mutmut; its diffs are read inside the folder that it ran in.
"""

import ast
import copy
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One mutant.

    Attributes:
        function: Its name, with its class before a dot.
        before, after: The changed lines.
        wording: Whether only a string literal differs, and stands in a `raise` or a warning.
    """

    function: str
    before: str
    after: str
    wording: bool

    def as_row(self):
        """The row of a record."""
        return {"function": self.function, "before": self.before, "after": self.after, "wording": self.wording}


def changes(source, names):
    """Return the Change of every mutant of a source by name; call it in the folder that mutmut ran in."""
    import libcst
    from mutmut.mutation.diff_apply import read_functions_from_index

    found = {}
    for name in names:
        pair = read_functions_from_index(name, source)
        original, mutant = (libcst.Module([function]).code.strip("\n") for function in pair)
        found[name] = change(qualified(name), original, mutant)
    return found


def qualified(name):
    """Return the function of a mutant's name.

    Example:
        >>> qualified("qkov.fisher.x_welford__mutmut_3"), qualified("qkov.interference.xǁFrameǁput__mutmut_1")
        ('welford', 'Frame.put')
    """
    inner = name.rpartition(".")[2].partition("__mutmut_")[0]
    return inner[2:] if inner.startswith("x_") else inner[2:].replace("ǁ", ".")


def change(function, original, mutant):
    """Compare the sources of a function and of its mutant."""
    before, after = changed_lines(original.splitlines(), mutant.splitlines())
    return Change(function, before, after, is_wording(original, mutant))


def changed_lines(old, new):
    """Return the lines that differ, as texts without their common indentation; a change is in one place."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    parts = old[start : len(old) - end], new[start : len(new) - end]
    return tuple(textwrap.dedent("\n".join(part)).strip() for part in parts)


def is_wording(original, mutant):
    """Tell whether two sources are the same but for the text of messages.

    Example:
        >>> is_wording("def f():\\n    raise ValueError('no')", "def f():\\n    raise ValueError('XXnoXX')")
        True
        >>> is_wording("def f():\\n    return 'no'", "def f():\\n    return 'XXnoXX'")
        False
        >>> is_wording("def f():\\n    raise ValueError('no')", "def f():\\n    raise ValueError(None)")
        False
    """
    first, second = (_without_messages(ast.parse(textwrap.dedent(text))) for text in (original, mutant))
    return first == second


class _Blank(ast.NodeTransformer):
    def visit_Constant(self, node):
        return ast.Constant("") if isinstance(node.value, str) else node


class _Messages(ast.NodeTransformer):
    def visit_Raise(self, node):
        return _Blank().visit(node)

    def visit_Call(self, node):
        if ast.unparse(node.func) == "warnings.warn":
            return _Blank().visit(node)
        return self.generic_visit(node)


def _without_messages(tree):
    return ast.dump(_Messages().visit(copy.deepcopy(tree)))
