"""Several processes that collect and score together, on one machine or many, with the results of one: the same bits.

Started by ``torchrun``, each process is a *rank*. Samples are collected in rounds (:mod:`qkov.shared_keeping`) into one store
on a file system that all ranks share; layers are scored by turns. Only small messages and scores travel between
ranks, as bytes over gloo, also where the model is on a GPU: gradients go through the store.

What makes the bits equal: the same batches and ``micro_batch``, the same kind of machine, and the same number of threads,
which ``torchrun`` sets to one; on a GPU also ``qkov.reproducibility.deterministic``. See the page "Many machines" of the book.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from . import agreement, links
from .collector import FisherCollector
from .errors import OptionError
from .shared_keeping import SharedStore

if TYPE_CHECKING:
    from .agreement import Agreement
    from .heatmap import Heatmap
    from .interference import QKOVInterferenceMetric
    from .option_types import GroupFisherMode


TIMEOUT = datetime.timedelta(hours=1)
SAME = "Give every rank the same collector, options and arguments."


@contextlib.contextmanager
def ranks(*, timeout: datetime.timedelta = TIMEOUT) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` has started; a process that it did not start is alone, and all is as usual.

    A process group of the program's own is left as it is: a group of gloo is made beside it, and ended with the block.

    Args:
        timeout: After how long a rank that says nothing counts as lost. A process that ends is noticed at once; this is for
            machines that vanish. It must be longer than the longest pass, and the longest share of scores.

    Yields:
        The :class:`Ranks` of this process.

    Example:
        >>> import torch, transformers, tempfile, qkov
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> model = transformers.LlamaForCausalLM(config)
        >>> with ranks() as here, tempfile.TemporaryDirectory() as folder:
        ...     with here.collector(store=folder + "/store") as collector:
        ...         collector.collect_fisher(model, {"input_ids": torch.arange(12).reshape(3, 4)}, task="math")
        ...     print(here.rank, here.size, collector.sample_ids("math"))
        0 1 (0, 1, 2)
    """
    started = distributed.is_available() and (distributed.is_initialized() or "TORCHELASTIC_RUN_ID" in os.environ)
    if not started:
        yield Ranks(agreement.Agreement(links.Alone()))
        return
    made = not distributed.is_initialized()
    if made:
        _join(timeout)
    try:
        together = agreement.Agreement(links.Gloo(distributed.new_group(backend="gloo", timeout=timeout)))
        try:
            yield Ranks(together)
            together.exchange("end", None)  # none leaves while another may still fail, and need it
        finally:
            together.close()
    finally:
        if made and distributed.is_initialized():
            distributed.destroy_process_group()


def _join(timeout: datetime.timedelta | None) -> None:
    """Make the process group, apart from what an attempt that torchrun has ended left in the store of its agent.

    There torch itself would find the addresses of dead processes, and wait for them.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        distributed.init_process_group("gloo", timeout=timeout)
        return
    agent = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    attempt = f"qkov/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    distributed.init_process_group(
        "gloo", store=distributed.PrefixStore(attempt, agent), timeout=timeout,
        rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]),
    )  # fmt: skip


TILES = (
    "A memory budget leaves more room on one rank than on another. Raise memory_budget, give tile_elements, or use "
    "tiling='fixed', in which tiles are the same whatever room there is."
)


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together. Every rank makes the same calls in the same order.

    An error of one rank is raised on all of them, with its number; a rank that ends is a ``RankFailedError`` on the others.

    Attributes:
        together: The :class:`qkov.agreement.Agreement` on which the rest is built.
    """

    together: agreement.Agreement

    @property
    def rank(self) -> int:
        """Number of this process; 0 is the one that should print and save."""
        return self.together.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.together.size

    @property
    def device(self) -> torch.device:
        """Where the model of this rank should be: a GPU of its own, or the CPU."""
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % count) if count else torch.device("cpu")

    def collector(self, *, store: str | os.PathLike | None = None, **options: Any) -> FisherCollector:
        """Return a collector of which each rank fills a part.

        Each rank calls ``collect_fisher`` with the same batches and collects every ``size``-th pass; all of them then hold
        all samples, in the order and with the bytes of one process. A run that is interrupted, or loses a rank, goes on
        when the same calls are made again, by any number of ranks.

        Args:
            store: Folder on a file system that all ranks share. options: As for ``FisherCollector``.

        Raises:
            OptionError: Without a store, if there are several ranks.
            RanksDifferError: If ranks were given different settings, or do not see one folder.
        """
        if self.size == 1:
            return FisherCollector(store=store, **options)
        if options.get("memory_budget") is not None:
            raise OptionError(
                "memory_budget is of one process, and ranks that hold more or less than others would cut batches differently. "
                "Give collect_fisher(micro_batch=...) on every rank; `python -m qkov plan` says what fits."
            )
        if store is None:
            raise OptionError(
                f"{self.size} ranks cannot collect in memory: every rank scores with the samples of all, which no rank would "
                "hold. Give collector(store=PATH), a folder on a file system that all ranks share."
            )
        return FisherCollector(store=SharedStore(self.together, os.fspath(store)), **options)

    def compute_heatmap(self, metric: QKOVInterferenceMetric, task_a: str, task_b: str, **options: Any) -> Heatmap:
        """Score with all ranks, layer by layer in turns; every rank gets the whole ``Heatmap``, bit for bit that of one.

        Args:
            metric: A ``QKOVInterferenceMetric`` on a collector that holds the same samples on every rank.
            task_a, task_b, options: As for ``metric.compute_heatmap``.

        Returns:
            The ``Heatmap``, the same on every rank.

        Raises:
            RanksDifferError: If samples, options or arguments differ between ranks.
            OptionError: If there are several ranks and ``scores_path`` is given.
        """
        if options.get("scores_path") is not None and self.size > 1:
            raise OptionError(
                "scores_path is for one process: ranks send each other the scores of their layers. Leave it out, or "
                "score on one rank."
            )
        self.together.require_same("compare metrics", _described(metric, task_a, task_b, options), "a metric", SAME)
        shared = copy.copy(metric)
        mine = range(self.rank, len(metric.config.layers), self.size)
        shared._over_slices = functools.partial(metric._over_slices, places=mine)  # type: ignore[method-assign]  # stands in for it while ranks share
        shared._fill = functools.partial(_fill_share, self.together, functools.partial(type(metric)._fill, shared))  # type: ignore[method-assign]  # stands in for it while ranks share
        return shared.compute_heatmap(task_a, task_b, **options)

    def get_group_fisher(self, collector: FisherCollector, task: str, mode: GroupFisherMode = "ema") -> dict:
        """Return ``collector.get_group_fisher(task, mode)``, of which each rank computes some layers; the same bits."""
        layers = collector.config.layer_indices[self.rank :: self.size]
        own = self.together.together(f"reduce task {task!r}", lambda: collector.get_group_fisher(task, mode, layers))
        every = self.together.exchange(
            f"gather task {task!r}", [[*key, values.tolist()] for key, values in own.items()]
        )
        found = {(layer, block): values for part in every for layer, block, values in part}
        blocks = [(layout.layer, one.block) for layout in collector.config.layers for one in layout.projections]
        return {key: torch.tensor(found[key], dtype=torch.float64) for key in blocks}


def _fill_share(together: Agreement, fill: Callable[..., Any], frames: Mapping[str, Any], *arguments: Any) -> Any:
    """Fill the layers of this rank, then take over those of the others; return the options of the scores."""
    *arguments, progress = arguments
    made = together.together("score", lambda: fill(frames, *arguments, progress and together.first))
    together.require_same("compare tiles", made.tile_elements, "the size of the tiles", TILES)
    for frame in frames.values():
        for place in range(len(frame.layouts)):
            for block, array in frame.arrays.items():
                for values in (array[:, :, place], *(one[place] for one in frame.health[block].values())):
                    together.broadcast(values, place % together.size)
    return made


def _described(metric: QKOVInterferenceMetric, task_a: str, task_b: str, options: Mapping[str, Any]) -> list[Any]:
    """What scores depend on, short enough to be compared."""
    collector = metric.collector
    samples = {
        task: [[one.sample_id, one.digest, one.num_tokens] for one in collector.samples(task)]
        for task in collector.tasks
    }
    arguments = {name: value for name, value in options.items() if name != "progress"}
    settings = [repr(metric.options), metric.fisher_tasks, repr(arguments), task_a, task_b]
    return [collector.model_fingerprint, settings, list(samples.items())]
