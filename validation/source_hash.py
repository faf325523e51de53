"""Tell whether a source computes what it did: a hash of what a Python file does, blind to how it is written down.

Committed evidence rests on the code that made it. A comment, a docstring, a line break or an annotation of a function changes
nothing that it computes, so these are left out; anything else counts. Files that are not Python are hashed as they are.
"""

import ast
import hashlib
import json

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def source_hash(path):
    """SHA-256 of what a source does, hexadecimal; the same under every Python that parses it alike."""
    content = path.read_bytes()
    if path.suffix != ".py":
        return hashlib.sha256(content).hexdigest()
    return code_hash(content.decode("utf-8"))


def code_hash(text):
    """SHA-256 of the parsed code without docstrings and without annotations of functions and their variables."""
    form = _form(ast.parse(text), in_class=False)
    return hashlib.sha256(json.dumps(form, ensure_ascii=True).encode()).hexdigest()


def _form(node, in_class):
    """Write a node as lists: its type, then every field that holds something; places in the file are no fields."""
    if isinstance(node, list):
        return [_form(one, in_class) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if (
        isinstance(node, ast.AnnAssign)
        and not in_class
        and node.value is not None
        and isinstance(node.target, ast.Name)
    ):
        return _form(ast.Assign(targets=[node.target], value=node.value), in_class)
    inside = isinstance(node, ast.ClassDef) or (in_class and not isinstance(node, _FUNCTIONS))
    fields = [(name, value) for name, value in ast.iter_fields(node) if not _left_out(node, name, value)]
    if isinstance(node, _DEFINITIONS):
        fields = [(name, _without_wording(node, value) if name == "body" else value) for name, value in fields]
    return [type(node).__name__, *([name, _form(value, inside)] for name, value in fields)]


def _left_out(node, name, value):
    """Empty fields (a newer Python has more of them), annotations of arguments and results, and how a string was written."""
    if value is None or value == []:
        return not (isinstance(node, ast.Constant) and name == "value")
    annotation = (isinstance(node, ast.arg) and name == "annotation") or (
        isinstance(node, _FUNCTIONS) and name == "returns"
    )
    return annotation or name in ("type_comment", "kind")


def _without_wording(node, body):
    """Leave out a docstring, and at the top of a file what only annotations need."""
    if ast.get_docstring(node, clean=False) is not None:
        body = body[1:]
    return [one for one in body if not _for_annotations_only(one)]


def _for_annotations_only(statement):
    """``from __future__ import annotations``, ``if TYPE_CHECKING:`` without an else, and imports of types alone."""
    if isinstance(statement, ast.If) and not statement.orelse:
        return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    if isinstance(statement, ast.ImportFrom):
        if statement.module == "__future__":
            return [alias.name for alias in statement.names] == ["annotations"]
        return statement.module in ("typing", "collections.abc")
    return False
