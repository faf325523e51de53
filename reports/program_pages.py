"""Parts of pages that are made from programs: the help of every command, and the examples of the repository."""

import ast
import shutil

import click
import typer

from qkov import cli, escaping

WIDTH = 88
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".yml": "yaml", ".jsonl": "json"}


def help_texts(program=None):
    """The text of ``--help`` of every command, as a terminal of 88 columns shows it.

    Args:
        program: A click command; default: that of `qkov`.

    Returns:
        Name as it is typed ("qkov store info") to text, the program first, then its commands in their order.
    """
    return dict(_walk(program or typer.main.get_command(cli.app), "qkov", None))


def _walk(command, name, parent):
    """Yield a command and all below it."""
    context = click.Context(
        command, info_name=name.split()[-1], parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )
    yield name, command.get_help(context)
    for below in getattr(command, "commands", {}).values():
        if not below.hidden:
            yield from _walk(below, f"{name} {below.name}", context)


def commands_page(texts):
    """A section for each command, one level down for each part of its name."""
    parts = [
        f"{'#' * min(4, 1 + len(name.split()))} {escaping.for_markdown(name)}\n\n```text\n{text.rstrip()}\n```\n"
        for name, text in texts.items()
    ]
    return "\n".join(parts)


def opening(path):
    """The docstring of a Python file, or the comment that another file begins with; empty if there is none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    lines = []
    for line in text.splitlines():
        if line.startswith("#!") or line.startswith("#SBATCH"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def examples_page(folder, destination):
    """A section for each example, with its first sentence, a link to the file, and the file itself.

    Args:
        folder: The examples of the repository. destination: Where their copies go, beside the page's own folder.
    """
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    parts = []
    for path in sorted(
        path for path in folder.rglob("*") if path.suffix in LANGUAGES and "__pycache__" not in path.parts
    ):
        name = path.relative_to(folder).as_posix()
        copy = destination / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        first = " ".join(opening(path).split("\n\n")[0].split())
        place = f"{destination.parent.name}/{destination.name}/{name}"
        parts.append(
            f"## {escaping.for_markdown(name)}\n\n{escaping.for_markdown(first)}\n\n"
            f"{{download}}`{name} <{place}>`\n\n"
            f":::{{dropdown}} The program\n```{{literalinclude}} {place}\n:language: {LANGUAGES[path.suffix]}\n```\n:::\n"
        )
    return "\n".join(parts)


def write_program_pages(folder, examples):
    """Write `commands.md` and `examples.md` into the folder of generated parts."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "commands": commands_page(help_texts()),
        "examples": examples_page(examples, folder / "examples"),
    }
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return sorted(texts)
