"""Build the book: pages, executed notebooks and generated tables into HTML that needs no network.

Warnings are errors, unresolved references included. The notebooks come executed; nothing runs during the build.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import yaml

from . import link_check

# Attributes through which a page loads something as soon as it is opened; a plain link (a[href]) is not among them.
LOADING = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
}
REMOTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
REMOTE_IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"\s]+", re.IGNORECASE)
# rel values of <link> that only name another page.
NAMING = {"canonical", "author", "license", "next", "prev", "index", "search", "alternate"}


# Pages that hold nothing of ours; index.html only leads to the first page.
MADE_BY_SPHINX = {"genindex.html", "search.html", "index.html"}


@dataclass(frozen=True)
class Book:
    """A built book: how many pages, and what is wrong with it."""

    index: Path
    num_pages: int
    problems: tuple[str, ...]


class LoadedAddresses(HTMLParser):
    """Collects the remote addresses that a page loads."""

    def __init__(self):
        super().__init__()
        self.remote = []

    def handle_starttag(self, tag, attributes):
        """Note each loading attribute that points to another machine."""
        given = dict(attributes)
        if tag == "link" and set((given.get("rel") or "").lower().split()) <= NAMING and given.get("rel"):
            return
        for name in LOADING.get(tag, ()):
            value = (given.get(name) or "").strip()
            if REMOTE.match(value):
                self.remote.append(f"<{tag} {name}={value}>")


def assemble(book, executed, destination, numbers):
    """Put the sources of a build together: pages, executed notebooks instead of their sources, numbers for the prose.

    Args:
        book: Folder with `_config.yml`, `_toc.yml` and the pages.
        executed: Folder with the executed notebooks.
        destination: Emptied and filled; the tables in `destination/generated` are left alone.
        numbers: Substitutions, ``{{ name }}`` in the pages.
    """
    destination.mkdir(parents=True, exist_ok=True)
    for old in destination.iterdir():
        if old.name != "generated":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(
        book, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    )
    for source in sorted((book / "notebooks").glob("*.md")):
        (destination / "notebooks" / source.name).unlink()
        shutil.copyfile(executed / f"{source.stem}.ipynb", destination / "notebooks" / f"{source.stem}.ipynb")
    config_path = destination / "_config.yml"
    config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    config.setdefault("parse", {})["myst_substitutions"] = numbers
    config_path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def build(sources, destination):
    """Run Jupyter Book with warnings as errors and inspect what it made.

    Args:
        sources: Folder made by :func:`assemble`.
        destination: Emptied; `html/` in it becomes the book.

    Returns:
        A :class:`Book`. A failed build is a problem of it, with the lines that say why.
    """
    shutil.rmtree(destination, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(sources)]
    command += ["--path-output", str(destination), "--all", "-W", "-n", "--keep-going"]
    env = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
    env.setdefault("SOURCE_DATE_EPOCH", "1767225600")
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    html = destination / "html"
    built = destination / "_build" / "html"
    if built.exists():
        shutil.move(built, html)
    problems = [] if done.returncode == 0 else [explain(done)]
    names = [path.relative_to(html).as_posix() for path in html.rglob("*.html")]
    pages = [name for name in names if name not in MADE_BY_SPHINX and not name.startswith("_static/")]
    if not pages:
        problems.append("the book has no page")
    problems += remote_resources(html)
    problems += link_check.broken_links(html)
    return Book(html / "index.html", len(pages), tuple(problems))


def explain(done):
    """The warnings and errors of a failed build; its last lines where none is marked."""
    lines = (done.stdout + done.stderr).splitlines()
    marked = [line for line in lines if re.search(r"WARNING|ERROR|Error|Exception", line)]
    return f"jupyter-book ended with status {done.returncode}:\n" + "\n".join(marked[:30] or lines[-30:])


def remote_resources(html):
    """List everything that the pages or their styles would load from another machine."""
    found = []
    for path in sorted(html.rglob("*")):
        if path.suffix == ".html":
            parser = LoadedAddresses()
            parser.feed(path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(html)} loads {address}" for address in parser.remote]
        elif path.suffix == ".css":
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{path.relative_to(html)} loads {address}" for address in REMOTE_IN_STYLE.findall(text)]
    return found
