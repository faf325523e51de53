"""What determines a run, as a frozen value and as YAML: model, task files, what is compared, scored, tested, predicted.

A file needs only what has no default; :meth:`RunConfig.to_yaml` writes everything out, the same bytes for the same value.
Nothing that is read is executed: plain YAML values alone, no anchors, no tags, no key twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from . import formula, memory, run_yaml, step
from .errors import ConfigError, OptionError

FORMAT = "qkov-run-1"
DTYPES = ("float32", "bfloat16")
CLUSTERS = ("auto", "given", "iid")


@dataclass(frozen=True)
class _Kind:
    """What a value must be: in words, and as a test."""

    expected: str
    accepts: Any


def _is_text(value):
    # A lone surrogate can be written to no file.
    return isinstance(value, str) and bool(value.strip()) and value.encode("utf-8", "replace").decode() == value


def _is_count(value):
    return type(value) is int and value >= 1


def _or_null(kind):
    return _Kind(f"{kind.expected}, or null", lambda value: value is None or kind.accepts(value))


def _word(*words):
    return _Kind(f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words)


def _several(expected, accepts):
    def fits(value):
        return isinstance(value, tuple) and bool(value) and all(map(accepts, value)) and len(set(value)) == len(value)

    return _Kind(f"a list of {expected}, each once", fits)


def _is_budget(value):
    try:
        return memory.budget_bytes(value) is not None
    except OptionError:
        return False


TEXT = _Kind("text (in quotes, if YAML takes it for something else)", _is_text)
FLAG = _Kind("true or false", lambda value: type(value) is bool)
COUNT = _Kind("a whole number of at least 1", _is_count)
SEED = _Kind("a whole number from 0 to 2^63 - 1", lambda value: type(value) is int and 0 <= value < 2**63)
LEVEL = _Kind("a number between 0 and 1", lambda value: type(value) is float and 0 < value < 1)
DIGEST = _Kind(
    "64 digits of 0-9 and a-f",
    lambda value: isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"),
)
BUDGET = _Kind("a size such as 8GB, or a number of bytes", _is_budget)
LAYERS = _several("layer numbers", lambda value: type(value) is int and value >= 0)
EVERY_VARIANT = (*formula.VARIANTS, *formula.MATRIX_VARIANTS)
VARIANTS = _several(f"some of {', '.join(EVERY_VARIANT)}", lambda value: value in EVERY_VARIANT)


def _entry(kind, **default):
    return field(**default, metadata={"kind": kind})


class _Checked:
    """Values are checked when they are put together, wherever they come from."""

    def __post_init__(self):
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, one.name, value)
            kind = one.metadata.get("kind")
            if kind is not None and not kind.accepts(value):
                raise ConfigError(f"{_key(type(self), one.name)!r} is {value!r:.200}; expected {kind.expected}.")


@dataclass(frozen=True)
class ModelChoice(_Checked):
    """Which model, and how it is loaded.

    Attributes:
        name: A folder, relative to that of the configuration, or a name on the hub.
        revision: Branch, tag or commit on the hub. dtype: Of weights and activations.
        attention: Which kind of attention, in a model with several. trust_remote_code: Run code that comes with the model.
        weights: False for random weights, made from the configuration and the seed.
    """

    name: str = _entry(TEXT)
    revision: str | None = _entry(_or_null(TEXT), default=None)
    dtype: str = _entry(_word(*DTYPES), default="float32")
    attention: str | None = _entry(_or_null(TEXT), default=None)
    trust_remote_code: bool = _entry(FLAG, default=False)
    weights: bool = _entry(FLAG, default=True)


@dataclass(frozen=True)
class TaskChoice(_Checked):
    """A file of samples, relative to the folder of the configuration; with ``sha256`` only if it has not changed."""

    path: str = _entry(TEXT)
    sha256: str | None = _entry(_or_null(DIGEST), default=None)


@dataclass(frozen=True)
class TokenChoice(_Checked):
    """How texts become tokens.

    Attributes:
        max_length: Most tokens of a sample, its prompt included. truncate: Cut longer ones off instead of refusing them.
        micro_batch: Samples of a pass; null: by a budget of tokens.
    """

    max_length: int = _entry(COUNT, default=512)
    truncate: bool = _entry(FLAG, default=False)
    micro_batch: int | None = _entry(_or_null(COUNT), default=None)


@dataclass(frozen=True)
class ScoreChoice(_Checked):
    """What is scored: see :class:`qkov.QKOVInterferenceMetric`; ``max_samples``: the first of each task alone."""

    variants: tuple[str, ...] = _entry(VARIANTS, default=("unsigned",))
    fisher_pool: str = _entry(_word(*formula.FISHER_POOLS), default="pooled")
    aggregate: str = _entry(_word(*formula.AGGREGATES), default="mean")
    layers: tuple[int, ...] | None = _entry(_or_null(LAYERS), default=None)
    max_samples: int | None = _entry(_or_null(COUNT), default=None)
    include_bias: bool = _entry(FLAG, default=False)


@dataclass(frozen=True)
class StatisticsChoice(_Checked):
    """Whether and how heads are tested: see :class:`qkov.QKOVStatistics`.

    Attributes:
        clusters: "auto": those of the task file, and where it has none every sample for itself; "given": only those; "iid".
        alpha: Level at which a slice counts as found.
    """

    run: bool = _entry(FLAG, default=True)
    clusters: str = _entry(_word(*CLUSTERS), default="auto")
    n_permutations: int | None = _entry(_or_null(COUNT), default=None)
    alpha: float = _entry(LEVEL, default=0.05)


@dataclass(frozen=True)
class PredictionChoice(_Checked):
    """Whether and how the effect of a step is predicted: see :func:`qkov.predict_change`."""

    run: bool = _entry(FLAG, default=True)
    optimiser: str = _entry(_word(*step.OPTIMISERS), default="sgd")


@dataclass(frozen=True)
class RunConfig(_Checked):
    """Everything that determines a run.

    Attributes:
        model, tokens, scores, statistics, prediction: The sections of the file.
        tasks: Name to :class:`TaskChoice`, in the order of collection; one that is not compared is collected too.
        source: Task A, whose sensitivity is measured. target: Task B, whose gradients act.
        reference: What A is compared with as a source, or None.
        device: Where the model runs and scores are made. memory_budget: As for :class:`qkov.FisherCollector`.
        seed: Of relabelings, and of random weights. keep_store: Keep the collected samples when all is done.
        folder: Where relative paths begin; no part of the file, nor of what is compared.

    Raises:
        ConfigError: If a value has no meaning; the message names its key.

    Example:
        >>> config = RunConfig.from_dict(
        ...     {"model": "gpt2", "tasks": {"math": "math.jsonl", "code": "code.jsonl"}, "source": "math", "target": "code"})
        >>> config.tasks["code"].path, config.scores.variants
        ('code.jsonl', ('unsigned',))
    """

    model: ModelChoice
    tasks: dict[str, TaskChoice]
    source: str = _entry(TEXT)
    target: str = _entry(TEXT)
    reference: str | None = _entry(_or_null(TEXT), default=None)
    tokens: TokenChoice = TokenChoice()
    scores: ScoreChoice = ScoreChoice()
    statistics: StatisticsChoice = StatisticsChoice()
    prediction: PredictionChoice = PredictionChoice()
    device: str = _entry(TEXT, default="cpu")
    memory_budget: int | str | None = _entry(_or_null(BUDGET), default=None)
    seed: int = _entry(SEED, default=0)
    keep_store: bool = _entry(FLAG, default=True)
    folder: Path = field(default=Path(), compare=False)

    def __post_init__(self):
        super().__post_init__()
        for name, task in self.tasks.items():
            if not _is_text(name) or not isinstance(task, TaskChoice):
                raise ConfigError(
                    f"'tasks' names {name!r:.200}; expected names that are {TEXT.expected}, of task files."
                )
        named = {"source": self.source, "target": self.target, "reference": self.reference}
        for role, name in named.items():
            if name is not None and name not in self.tasks:
                raise ConfigError(
                    f"{role!r} is {name!r}, which is none of the tasks {', '.join(map(repr, self.tasks))}."
                    f"{_did_you_mean(name, self.tasks)}"
                )
        if len({self.source, self.target, self.reference}) < 3:
            raise ConfigError(
                f"'source', 'target' and 'reference' are {tuple(named.values())}; expected different tasks."
            )

    @classmethod
    def from_dict(cls, content: Any, *, folder: Path | str = ".") -> RunConfig:
        """Build a configuration from plain values, as YAML and JSON have them; names and paths may stand for sections.

        Args:
            content: A mapping.
            folder: Where paths begin.

        Returns:
            The configuration, all defaults filled in.

        Raises:
            ConfigError: For an unknown or missing key, or a value without meaning.
        """
        content = dict(_mapping(content, "the configuration", ("model", "tasks", "source", "target")))
        found = content.pop("format", FORMAT)
        if found != FORMAT:
            raise ConfigError(f"'format' is {found!r:.200}; expected {FORMAT!r}. Another version of qkov wrote this.")
        _check_keys(cls, content, "")
        tasks = _mapping(content.get("tasks", {}), "'tasks'", ("math", "code"))
        given = {
            **content,
            "tasks": {name: _section(TaskChoice, one, f"tasks.{name}", "path") for name, one in tasks.items()},
        }
        for name, section in SECTIONS.items():
            if name in content:
                given[name] = _section(section, content[name], name, "name" if name == "model" else None)
        return cls(**given, folder=Path(folder))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, all defaults written out."""
        found = {"format": FORMAT, **_plain(dataclasses.asdict(self))}
        found.pop("folder")
        return found

    def to_yaml(self) -> str:
        """Write YAML, all defaults written out; ASCII, the same text for the same value."""
        return yaml.safe_dump(
            self.to_dict(), sort_keys=False, default_flow_style=False, width=2**31, allow_unicode=False
        )

    def task_path(self, task: str) -> Path:
        """Say where the file of a ``task`` is."""
        return self.folder / Path(self.tasks[task].path).expanduser()

    @property
    def model_source(self) -> str:
        """A folder, or a name on the hub: what is a folder beside the configuration is taken for one."""
        name = Path(self.model.name).expanduser()
        path = self.folder / name
        looks_like_path = self.model.name.startswith((".", "~")) or name.is_absolute()
        return str(path) if looks_like_path or path.is_dir() else self.model.name

    def relative_to(self, folder: Path | str) -> RunConfig:
        """Return the same configuration as a file in another ``folder`` has it: paths begin there."""
        folder = Path(folder)
        tasks = {
            name: dataclasses.replace(one, path=_relative(self.task_path(name), folder))
            for name, one in self.tasks.items()
        }
        model = self.model
        if self.model_source != model.name or Path(self.model_source).is_dir():
            model = dataclasses.replace(model, name=_relative(Path(self.model_source), folder))
        return dataclasses.replace(self, tasks=tasks, model=model, folder=folder)

    def __hash__(self):
        return hash(self.to_yaml())


SECTIONS = {
    "model": ModelChoice,
    "tokens": TokenChoice,
    "scores": ScoreChoice,
    "statistics": StatisticsChoice,
    "prediction": PredictionChoice,
}


def read_config(path: Path | str) -> RunConfig:
    """Read a configuration; its paths begin in the folder of the file.

    Args:
        path: The YAML file.

    Returns:
        The configuration, all defaults filled in.

    Raises:
        ConfigError: If it is missing, is no such YAML, or holds something without meaning; the message names file and key.
    """
    path = Path(path)
    content = run_yaml.read(path)
    try:
        return RunConfig.from_dict(content, folder=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from error


def _relative(path, folder):
    """The path as seen from a folder, so that both can be moved together; absolute where there is no way between them."""
    try:
        found = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return str(path.resolve())
    return found if found.startswith("..") else f"./{found}"


def _key(section, name):
    prefix = {one: name for name, one in SECTIONS.items()}.get(section)
    prefix = "tasks.*" if section is TaskChoice else prefix
    return name if prefix is None else f"{prefix}.{name}"


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _mapping(value, where, example):
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r:.200}; expected keys with values, such as {', '.join(example)}.")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{where} has the key {key!r:.200}, which is no text; put it in quotes.")
    return value


def _section(section, value, where, shorthand=None):
    """Build a section of the file; a text stands for its ``shorthand`` entry alone."""
    if shorthand and isinstance(value, str):
        value = {shorthand: value}
    value = _mapping(value, f"{where!r}", [one.name for one in dataclasses.fields(section)])
    _check_keys(section, value, f"{where}.")
    try:
        return section(**value)
    except ConfigError as error:
        raise ConfigError(str(error).replace("tasks.*", where, 1)) from error


def _check_keys(section, content, prefix):
    known = {one.name: one for one in dataclasses.fields(section) if one.name != "folder"}
    for key in content:
        if key not in known:
            raise ConfigError(
                f"key {prefix + key!r} is not known.{_did_you_mean(key, known)} Expected some of {', '.join(known)}."
            )
    for name, one in known.items():
        if name not in content and one.default is dataclasses.MISSING:
            expected = one.metadata["kind"].expected if one.metadata else "keys with values"
            raise ConfigError(f"key {prefix + name!r} is missing; expected {expected}.")


def _did_you_mean(word, known):
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
