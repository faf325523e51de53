"""Tests of heads from what a run, or a store alone, has collected: with the run's own settings or with others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import head_statistics, run_folder
from .collector import FisherCollector
from .errors import OptionError, ResultFileError, RunFolderError, StatisticsError
from .head_statistics import HeadStatistics
from .inference import QKOVStatistics

if TYPE_CHECKING:
    from .option_types import Alternative

__all__ = ["CLUSTERS", "Samples", "open_samples", "save_beside", "save_in_run", "statistics_of"]

CLUSTERS = ("auto", "given", "iid")


@dataclass(frozen=True)
class Samples:
    """Collected samples, and how they are to be tested.

    Attributes:
        collector: Holds the samples. run: Where they come from, or None: a store alone.
        task_a, task_b, reference: Names of tasks. clusters: "auto", "given" or "iid".
        n_permutations, alternative, seed: As for :class:`qkov.QKOVStatistics`. layers: To be tested, or None for all.
        alpha: Level of what survives.
        own: Whether these are the settings of the run itself.
    """

    collector: FisherCollector
    run: run_folder.RunFolder | None
    task_a: str
    task_b: str
    reference: str | None
    clusters: str
    n_permutations: int | None
    alternative: Alternative
    seed: int
    layers: tuple[int, ...] | None
    alpha: float
    own: bool


def open_samples(
    path: Path | str,
    *,
    task_a: str | None = None,
    task_b: str | None = None,
    reference: str | None = None,
    clusters: str | None = None,
    n_permutations: int | None = None,
    alternative: Alternative = "greater",
    seed: int | None = None,
    alpha: float | None = None,
) -> Samples:
    """Open a run or a store for tests; what is not given is as the run has it.

    Args:
        path: Folder of a run, or of a store. reference: "none" for no reference, where the run has one.
        task_a, task_b, clusters, n_permutations, alternative, seed, alpha: See :class:`Samples`.

    Raises:
        OptionError: If tasks of a store are not named, or a choice is not known.
        RunFolderError: If the run keeps no store. StoreNotFoundError: If the folder is neither.
    """
    path = Path(path)
    if not (path / run_folder.RECORD).is_file():
        collector = FisherCollector.open(path)
        if task_a is None or task_b is None:
            raise OptionError(
                f"{str(path)!r} is a store, which does not say what is compared: name --task-a and --task-b; it holds "
                f"{', '.join(map(repr, collector.tasks))}."
            )
        settings = (
            task_a,
            task_b,
            _reference(reference, None),
            clusters or "auto",
            n_permutations,
            alternative,
            seed or 0,
        )
        return Samples(collector, None, *settings, None, head_statistics.ALPHA if alpha is None else alpha, False)
    run = run_folder.open_run(path)
    collector = run.collector()
    if collector is None:
        raise RunFolderError(
            f"{str(path)!r} keeps no samples, so nothing can be tested anew. Run its {run_folder.CONFIG} into another folder "
            "with keep_store: true."
        )
    config = run.config
    chosen = (
        task_a or config.source,
        task_b or config.target,
        _reference(reference, config.reference),
        clusters or config.statistics.clusters,
        config.statistics.n_permutations if n_permutations is None else n_permutations,
    )
    seed = config.seed if seed is None else seed
    of_run = (
        config.source,
        config.target,
        config.reference,
        config.statistics.clusters,
        config.statistics.n_permutations,
    )
    own = chosen == of_run and alternative == "greater" and seed == config.seed
    alpha = config.statistics.alpha if alpha is None else alpha
    return Samples(collector, run, *chosen, alternative, seed, config.scores.layers, alpha, own)


def _reference(given: str | None, otherwise: str | None) -> str | None:
    return None if given == "none" else given or otherwise


def statistics_of(samples: Samples, *, progress: bool = True) -> HeadStatistics:
    """Test every head.

    Raises:
        StatisticsError: If nothing could be tested; and what :meth:`qkov.QKOVStatistics.test_heatmap` raises.
    """
    if samples.clusters not in CLUSTERS:
        raise OptionError(f"clusters={samples.clusters!r}; expected one of {', '.join(CLUSTERS)}.")
    if not 0 < samples.alpha < 1:
        raise OptionError(f"alpha={samples.alpha}; expected a level between 0 and 1, such as 0.05.")
    test = QKOVStatistics(n_permutations=samples.n_permutations, alternative=samples.alternative)
    found = test.test_heatmap(
        samples.collector,
        samples.task_a,
        samples.task_b,
        samples.reference,
        _clusters(samples),
        seed=samples.seed,
        layers=samples.layers,
        progress=progress,
    )
    if np.isnan(found.columns[f"{found.main_test}_p"]).all():
        raise StatisticsError(
            f"Nothing could be tested in any of {len(found.blocks)} slices: gradients are rounding noise, or samples have "
            "none. Look at the model and the losses of the samples."
        )
    return found


def _clusters(samples: Samples) -> str | dict[str, str] | None:
    """What the tests are given: labels of the collection, or word that samples are independent."""
    if samples.clusters == "iid":
        return "iid"
    if samples.clusters == "given":
        return None
    tasks = [one for one in (samples.task_a, samples.task_b, samples.reference) if one is not None]
    return {task: "iid" for task in tasks if all(one is None for one in samples.collector.clusters(task).values())}


def save_in_run(samples: Samples, found: HeadStatistics) -> tuple[Path, bool]:
    """Write a result into its run and name it in the record; nothing that is there is overwritten.

    Returns:
        ``(path, new)``: the file that holds the same already; else ``statistics.safetensors`` for the run's own settings, if
        that is not there yet; else the next free ``statistics-2.safetensors`` and so on.
    """
    path, record = samples.run.path, samples.run.record  # type: ignore[union-attr]  # of a run, not of a store
    own = run_folder.RESULTS["statistics"]
    for name, facts in record["results"].items():
        if name.startswith("statistics") and facts.get("fingerprint") == found.fingerprint:
            return path / name, False
    name, number = own, 1
    while not (samples.own or number > 1) or name in record["results"] or (path / name).exists():
        number += 1
        name = own.replace(".", f"-{number}.")
    if name == own:
        record = {**record, "not_run": [one for one in record["not_run"] if one.get("what") != "statistics"]}
    run_folder.add_result(path, record, name, found)
    return path / name, True


def save_beside(found: HeadStatistics, path: Path | str) -> tuple[Path, bool]:
    """Write a result to a file that is not there yet, or holds the same.

    Raises:
        OptionError: If the file is there and holds something else.
    """
    path = Path(path)
    if path.exists():
        if not _holds(path, found):
            raise OptionError(
                f"{str(path)!r} is there and holds something else; name another file, or remove this one."
            )
        return path, False
    found.save(path)
    return path, True


def _holds(path: Path, found: Any) -> bool:
    try:
        return head_statistics.load_statistics(path) == found
    except ResultFileError:
        return False
