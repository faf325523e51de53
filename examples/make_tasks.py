"""What does a task file of the command line look like?

    python make_tasks.py [FOLDER]

Writes `prose.jsonl`, `code.jsonl` and `sums.jsonl`: docstrings and source code of Python's standard library, and
generated sums. A line is one sample, an object with an id of its own and a text. The "cluster" says which samples are
not independent of each other, here those of one module; a module gives prose or code, never both. Tests need about 32
clusters of each task.

It prints the first line of each file.
"""

import ast
import json
import random
import sys
import sysconfig
import tempfile
from pathlib import Path

CLUSTERS, LENGTH = 32, 64


def docstrings(source):
    """Join the docstrings of a module."""
    nodes = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef | ast.ClassDef)]
    return "\n".join(filter(None, map(ast.get_docstring, nodes)))


def sums(number):
    draw = random.Random(number)
    pairs = [(draw.randrange(1000), draw.randrange(1000)) for _ in range(LENGTH)]
    return "".join(f"{one} + {two} = {one + two}\n" for one, two in pairs)


def tasks():
    """Return ``{task: {cluster: text}}``."""
    files = [path for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) if path.stat().st_size > 12000]
    modules = {path.stem: path.read_text(encoding="utf-8") for path in files}
    prose = {name: docstrings(source) for name, source in list(modules.items())[::2]}
    return {
        "prose": {name: text for name, text in prose.items() if len(text) > 4 * LENGTH},
        "code": {name: source[3000:] for name, source in list(modules.items())[1::2]},
        "sums": {f"draw {number}": sums(number) for number in range(CLUSTERS)},
    }


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for task, found in tasks().items():
        samples = [
            {"id": f"{cluster}@{start}", "text": text[start : start + LENGTH], "cluster": cluster}
            for cluster, text in list(found.items())[:CLUSTERS]
            for start in (0, 2 * LENGTH)
        ]
        lines = [json.dumps(one) + "\n" for one in samples]
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{task}.jsonl", lines[0], sep="\n")
        assert len({one["id"] for one in samples}) == 2 * CLUSTERS


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path((sys.argv[1:] or [temporary])[0]))
