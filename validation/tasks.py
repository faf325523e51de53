"""Real text for two tasks, as bytes: the standard library's code, its docstrings as prose, and generated arithmetic.

The text is the running Python's own standard library, so nothing is downloaded and every sample can be looked up. Modules
are read as files and parsed; none is imported or executed. A module belongs to exactly one of four parts, chosen by the
hash of its name, so that no module gives text to two tasks, or to training and to held-out text:

    ==========  =======================================  ======================
    task        text                                     cluster
    ==========  =======================================  ======================
    code        sources without docstrings and comments  the module
    prose       docstrings without interactive examples  the module
    arithmetic  generated sums, no problem in two splits the operation and size
    ==========  =======================================  ======================

A sample id such as ``"json.decoder:2"`` names the module and the number of the chunk, counted from 0 in chunks of
``length`` bytes. Python versions differ in their text: whatever is derived from it is keyed by :func:`corpus_fingerprint`.
"""

import ast
import functools
import hashlib
import inspect
import io
import random
import sys
import sysconfig
import tokenize
from dataclasses import dataclass
from pathlib import Path

TASKS = ("code", "prose", "arithmetic")
SPLITS = ("train", "held_out")
PAD_ID = 256
"""Follows the 256 byte values."""
VOCAB_SIZE = 257
IGNORED_LABEL = -100
"""The label that transformers leaves out of the loss."""

# Tests quote text from everywhere; encodings and pydoc_data are tables; the others are applications or jokes.
_EXCLUDED = frozenset(
    ["test", "idlelib", "encodings", "lib2to3", "pydoc_data", "turtledemo", "ensurepip", "antigravity", "this"]
)
# Prose is the scarcer text: it gets more modules. Upper ends of the shares of the hash range.
_SHARES = (
    (0.34, ("code", "train")),
    (0.72, ("prose", "train")),
    (0.85, ("code", "held_out")),
    (1.00, ("prose", "held_out")),
)
_SMALLEST_TEXT = 256  # bytes; less is a stub module


@dataclass(frozen=True)
class TaskText:
    """Samples of one task.

    Attributes:
        task: ``"code"``, ``"prose"`` or ``"arithmetic"``.
        split: ``"train"`` or ``"held_out"``.
        ids: One per sample, saying where the text came from.
        clusters: One per sample: samples of one cluster are not independent.
        texts: The bytes of each sample.
    """

    task: str
    split: str
    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    texts: tuple[bytes, ...]

    def __len__(self):
        return len(self.ids)

    @property
    def fingerprint(self):
        """SHA-256 over ids and bytes, hexadecimal."""
        return _sha256(part for pair in zip(self.ids, self.texts, strict=True) for part in pair)

    def decoded(self):
        """Return the samples as ``str``; a character cut by the chunk's border is left out."""
        return [text.decode("utf-8", errors="ignore") for text in self.texts]


def load_task(task, num_samples, length=128, *, split="held_out", seed=0, shortest=None, per_cluster=2):
    """Draw samples of one task.

    Args:
        task: One of :data:`TASKS`.
        num_samples: How many.
        length: Bytes of a chunk, the most a sample can have.
        split: ``"train"`` (what the trained models saw) or ``"held_out"``.
        seed: Chooses modules, chunks and lengths.
        shortest: Samples have ``shortest`` to ``length`` bytes, so that batches are padded; ``None``: three quarters of
            ``length``.
        per_cluster: Samples taken from a module before the next module is visited.

    Returns:
        A :class:`TaskText`.

    Raises:
        ValueError: For an unknown task or split, or if the text does not suffice.
    """
    if task not in TASKS or split not in SPLITS:
        raise ValueError(f"task must be one of {TASKS} and split one of {SPLITS}; got {task!r} and {split!r}.")
    shortest = max(2, (3 * length) // 4) if shortest is None else shortest
    if not 1 <= shortest <= length or num_samples < 0 or per_cluster < 1:
        raise ValueError(
            f"Expected 1 <= shortest <= length, num_samples >= 0 and per_cluster >= 1; "
            f"got {shortest=}, {length=}, {num_samples=}, {per_cluster=}."
        )
    chunks = _arithmetic_chunks if task == "arithmetic" else _module_chunks
    order = random.Random(f"{task}/{split}/{seed}")
    drawn = []
    for cluster, number, text in chunks(task, split, length, shortest, per_cluster, order):
        if len(drawn) == num_samples:
            break
        drawn.append((f"{cluster}:{number}", cluster, text[: order.randint(shortest, length)]))
    if len(drawn) < num_samples:
        raise ValueError(f"{task} ({split}) holds {len(drawn)} chunks of {length} bytes; {num_samples} were asked for.")
    ids, clusters, texts = zip(*drawn, strict=True) if drawn else ((), (), ())
    return TaskText(task, split, ids, clusters, texts)


def as_batch(texts, *, length=None, padding="right", prompts=None):
    """Turn byte strings into a padded batch with unshifted labels, as transformers takes it.

    Pads carry :data:`PAD_ID`, mask 0 and label -100. With left padding the label of the first real token is masked as
    well, because the last pad would predict it.

    Args:
        texts: Byte strings, or a :class:`TaskText`.
        length: Tokens per row; longer texts are cut. ``None``: the longest text.
        padding: ``"right"`` or ``"left"``.
        prompts: Number of leading tokens per sample whose labels are masked; ``None``: none.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels``, each int64 ``[N, T]``.
    """
    texts = texts.texts if isinstance(texts, TaskText) else texts
    return pad_rows([list(text) for text in texts], pad_id=PAD_ID, length=length, padding=padding, prompts=prompts)


def pad_rows(rows, *, pad_id, length=None, padding="right", prompts=None):
    """Pad lists of token ids to a batch; see :func:`as_batch`."""
    import torch

    if padding not in ("right", "left"):
        raise ValueError(f"padding must be 'right' or 'left'; got {padding!r}.")
    length = max((len(row) for row in rows), default=0) if length is None else length
    prompts = [0] * len(rows) if prompts is None else prompts
    input_ids = torch.full((len(rows), length), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED_LABEL)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        tokens = torch.tensor(row[:length], dtype=torch.int64)
        start = length - len(tokens) if padding == "left" else 0
        stop = start + len(tokens)
        input_ids[i, start:stop] = tokens
        attention_mask[i, start:stop] = 1
        masked = max(prompt, 1 if start > 0 else 0)
        labels[i, start + masked : stop] = tokens[masked:]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


@functools.cache
def read_corpus(task, split):
    """Return the whole text of a task's modules, ``{module: bytes}``, in the order of the module names."""
    texts = {module: _module_text(task, module) for module in _modules_of(task, split)}
    return {module: text for module, text in texts.items() if len(text) >= _SMALLEST_TEXT}


@functools.cache
def corpus_fingerprint():
    """SHA-256 over the sources that the text comes from and over the functions that turn them into text."""
    extraction = [repr(_SHARES), repr(_SMALLEST_TEXT), sys.version.split()[0]]
    extraction += [
        code_text(inspect.getsource(f)) for f in (_part_of, code_text, _prose_text, _without_spans, _docstring_nodes)
    ]
    sources = (part for module, path in _module_paths().items() for part in (module, path.read_bytes()))
    return _sha256([*extraction, *sources])


def _sha256(parts):
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@functools.cache
def _module_paths():
    """Find the standard library's pure Python modules, ``{dotted name: file}``, in the order of the names."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {}
    for name in sys.stdlib_module_names - _EXCLUDED:
        if (root / f"{name}.py").is_file() and not name.startswith("_sysconfigdata"):
            found[name] = root / f"{name}.py"
        for path in (root / name).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            if not {"test", "tests"} & set(parts):
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dict(sorted(found.items()))


def _part_of(module):
    """Choose the task and split of a module from the hash of its name."""
    share = int.from_bytes(hashlib.sha256(module.encode()).digest()[:4], "big") / 2**32
    return next(part for end, part in _SHARES if share < end)


def _modules_of(task, split):
    return [module for module in _module_paths() if _part_of(module) == (task, split)]


@functools.cache
def _module_text(task, module):
    # Decoded by Python's own rule (PEP 263), with line ends as "\n" on every platform.
    with tokenize.open(_module_paths()[module]) as file:
        source = file.read()
    return (code_text if task == "code" else _prose_text)(source).encode()


def _docstring_nodes(source):
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            yield node


def code_text(source):
    """Drop docstrings, comments and blank lines from Python source."""
    lines = source.splitlines(keepends=True)
    spans = []
    for node in _docstring_nodes(source):
        doc = node.body[0]
        # ast counts columns in UTF-8 bytes, everything else here in characters.
        columns = [
            len(lines[line - 1].encode()[:column].decode())
            for line, column in ((doc.lineno, doc.col_offset), (doc.end_lineno, doc.end_col_offset))
        ]
        spans.append(((doc.lineno, columns[0]), (doc.end_lineno, columns[1])))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            spans.append((token.start, token.end))
    kept = (line.rstrip() for line in _without_spans(lines, spans))
    return "".join(f"{line}\n" for line in kept if line)


def _without_spans(lines, spans):
    """Cut spans ``((line, column), (line, column))`` out of lines (counted from 1)."""
    lines = list(lines)
    # From the end, so that the columns of earlier spans stay right.
    for (first, start), (last, stop) in sorted(spans, reverse=True):
        tail = lines[last - 1][stop:]
        lines[first - 1 : last] = [lines[first - 1][:start] + tail] + [""] * (last - first)
    return lines


def _prose_text(source):
    """Join the docstrings, without the paragraphs that are interactive examples (those are code)."""
    docs = []
    for node in _docstring_nodes(source):
        paragraphs = ast.get_docstring(node).split("\n\n")
        docs.append("\n\n".join(text.strip("\n") for text in paragraphs if ">>>" not in text).strip())
    return "".join(f"{doc}\n\n" for doc in docs if doc)


def _module_chunks(task, split, length, shortest, per_cluster, order):
    """Yield (module, chunk number, bytes): modules in random order, ``per_cluster`` chunks of each, then round again."""
    modules = _modules_of(task, split)
    order.shuffle(modules)
    left = {}
    while modules:
        for module in modules:
            text = _module_text(task, module)
            if module not in left:
                left[module] = [k for k in range(-(-len(text) // length)) if len(text) - k * length >= shortest]
                left[module] = left[module] if len(text) >= _SMALLEST_TEXT else []
                order.shuffle(left[module])
            for number in sorted(left[module][:per_cluster]):
                yield module, number, text[number * length : (number + 1) * length]
            left[module] = left[module][per_cluster:]
        modules = [module for module in modules if left[module]]


_OPERATIONS = {"addition": "+", "subtraction": "-", "multiplication": "*"}


def _arithmetic_chunks(task, split, length, shortest, per_cluster, order):
    """Yield (operation and digits, number, bytes) without end; the hash of a problem decides which split it is in."""
    clusters = [(operation, digits) for operation in _OPERATIONS for digits in (1, 2, 3)]
    number = 0
    while True:
        for operation, digits in clusters:
            for k in range(per_cluster):
                text = ""
                while len(text) < length:
                    problem = _problem(operation, digits, order)
                    text += problem if _problem_split(problem) == split else ""
                yield f"{operation}-{digits}", number + k, text[:length].encode()
        number += per_cluster


def _problem(operation, digits, order):
    first, second = (order.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits) for _ in range(2))
    symbol = _OPERATIONS[operation]
    result = {"+": first + second, "-": first - second, "*": first * second}[symbol]
    return f"{first} {symbol} {second} = {result}\n"


def _problem_split(problem):
    return SPLITS[hashlib.sha256(problem.encode()).digest()[0] % 2]
