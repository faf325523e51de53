"""Collect what per-sample gradients are made of, task by task, and hand it out as contributions, gradients, Fisher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch

from . import (
    collection_budget,
    fisher,
    formula,
    handed_out,
    linear_weights,
    losses,
    memory,
    passes,
    reproducibility,
    sample_rows,
    shards,
)
from . import (
    non_finite as non_finite_gradients,
)
from .errors import (
    LayoutError,
    UnknownSampleError,
    UnknownTaskError,
    UnsealedStoreError,
)
from .keeping import InMemory, OnDisk
from .layout import QKOVConfig, uncompiled
from .lazy_mapping import LazyMapping
from .store import Store

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from torch import nn

    from .linear_weights import LinearWeight
    from .option_types import (
        Batches,
        ContributionNormalisation,
        GroupFisherMode,
        LossFunction,
        MemoryBudget,
        NonFinite,
        PathLike,
        SampleId,
        StoreDtype,
        StoreForm,
    )
    from .passes import Numbers, Supply
    from .samples import Sample
    from .shared_keeping import SharedOnDisk, SharedStore


class FisherCollector:
    """Hold the samples of every task, as factors of their gradients, in memory or on disk.

    With ``store`` every pass is on disk, synced, before the next begins, and after an interruption of any kind the same
    calls go on where it stopped. A stored collection ends with :meth:`seal`; until then scores are refused, as they would
    rest on part of the samples. :meth:`open` reads a store.

    Args:
        contribution_normalisation: "tokens" (``C = g^2 / tokens``, default) or "none" (``C = g^2``).
        ema_decay: Decay of the exponential mean, one update per sample.
        attention: Which kind of attention, in a model with several; see ``qkov.locate.find_attention``.
        weights: What to hold: "attention" (default), ("attention", "mlp"), "all", or names of linear modules; see
            :func:`qkov.linear_weights.find_linear_weights`. Attention projections are always held, and their gradients
            and scores do not depend on what else is. A feed-forward part takes 1.5 to 2 times the memory of its
            attention.
        store: Folder to keep samples in: a new one, or one to go on with; see :mod:`qkov.store`. None: in memory.
        store_dtype: Precision of stored factors: "float32", "float64", "bfloat16", or None for the one of the model.
            float32 factors kept as bfloat16 change gradients by up to 9e-4 of their size.
        store_form: "smaller" keeps the whole gradient of a module where that takes fewer bytes than its factors, which is
            so for samples of more tokens than about 2/3 of the width; "factors" never does: Kronecker factors need tokens.
        allow_unsealed: Give scores of a store whose collection has not ended.
        tokenizer: What made the batches; with a store, going on with another one is refused.
        memory_budget: Most memory that this process may hold while it collects, in bytes or as "8GB" (10^9), "8GiB" (2^30):
            all of it, with Python, torch and the model; on an accelerator, what torch has allocated there. Passes then have
            fewer samples where that is needed, and what cannot fit is refused before the first pass of a batch; see
            :mod:`qkov.collection_budget`. Freed memory is returned to the system at once for the rest of the process
            (``qkov.memory.return_what_is_freed``). No part of a store's settings: it can be continued with another
            budget. The number of samples in a pass may change the last bits of what is collected; give ``micro_batch``
            where they matter.

    Raises:
        StoreMismatchError: If the store was collected with other settings.
        StoreBusyError, StoreDamagedError, StoreVersionError, DiskError: If it cannot be written to.

    Example:
        >>> import torch, transformers
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> model = transformers.LlamaForCausalLM(config)
        >>> collector = FisherCollector()
        >>> collector.collect_fisher(model, {"input_ids": torch.arange(12).reshape(3, 4)}, task="math")
        >>> list(collector.contribution_cache["math"])
        ['math_0', 'math_1', 'math_2']
        >>> collector.get_sample_gradients("math", 2)["model.layers.0.self_attn.k_proj.weight"].shape
        torch.Size([8, 16])
    """

    if TYPE_CHECKING:
        config: QKOVConfig | Any  # None before the first collection; whoever reads it later need not ask
        model_fingerprint: str | None
        _weights: tuple[LinearWeight, ...]
        _left_out: dict[str, str]
        _tasks: dict[str, dict[SampleId, Sample]]
        _skipped: dict[str, dict[SampleId, str]]
        _next_number: dict[str, int]
        _seen: tuple[LossFunction | None, sample_rows.FirstAxis | None]
        _keeping: Any  # InMemory, OnDisk or SharedOnDisk

    def __init__(
        self,
        *,
        contribution_normalisation: ContributionNormalisation = "tokens",
        ema_decay: float = fisher.EMA_DECAY,
        attention: str | None = None,
        weights: str | Iterable[str] = "attention",
        store: PathLike | SharedStore | None = None,
        store_dtype: StoreDtype | None = None,
        store_form: StoreForm = "smaller",
        allow_unsealed: bool = False,
        tokenizer: Any = None,
        memory_budget: MemoryBudget | None = None,
    ) -> None:
        formula.require_choice("contribution_normalisation", contribution_normalisation, formula.NORMALISATIONS)
        fisher.sample_weights(1, "ema", ema_decay)  # refuses a decay outside (0, 1)
        self.memory_budget = memory.budget_bytes(memory_budget)
        if self.memory_budget is not None:
            memory.return_what_is_freed()
        self.contribution_normalisation = contribution_normalisation
        self.ema_decay = ema_decay
        self.attention = attention
        asked = (weights,) if isinstance(weights, str) else tuple(weights)
        self._asked = tuple(dict.fromkeys(("attention", *asked)))
        self._weights, self._left_out = (), {}
        self.config = None
        self.model_fingerprint = None
        self._tasks, self._skipped, self._next_number = {}, {}, {}
        self._seen = None, None  # the latest loss, and what passes with it showed of the first axis
        formula.require_choice("store_form", store_form, shards.FORMS)
        if store_dtype is not None:
            formula.require_choice("store_dtype", store_dtype, tuple(shards.STORED_DTYPES))
        self.allow_unsealed = allow_unsealed
        self._keeping = InMemory()
        if store is not None:
            settings = {
                "contribution_normalisation": contribution_normalisation,
                "ema_decay": ema_decay,
                "attention": attention,
                "weights": list(self._asked),
                "store_dtype": store_dtype,
                "store_form": store_form,
                "tokenizer": None if tokenizer is None else reproducibility.tokenizer_fingerprint(tokenizer),
            }
            shared = hasattr(store, "keeping")  # what several ranks fill, see qkov.distributed
            self._take(store.keeping(settings) if shared else OnDisk(Store.writing(store), settings))  # type: ignore[arg-type, union-attr]  # told apart by it

    @classmethod
    def open(cls, path: PathLike, allow_unsealed: bool = False) -> Self:
        """Read a stored collection: everything but ``collect_fisher``; factors are read from disk when asked for.

        Args:
            path: Folder of the store. allow_unsealed: Also where collection has not ended; scores then rest on part of
                the samples.

        Returns:
            A collector to compute with.

        Raises:
            StoreNotFoundError, StoreVersionError: If there is no store that this version reads.
            StoreDamagedError: If something that was committed is missing or changed. Shards are also checked at each
                reading; ``python -m qkov store verify`` checks all at once.
            UnsealedStoreError: If collection has not ended.
        """
        found = Store.reading(path, allow_unsealed=allow_unsealed)
        settings = found.header["settings"]
        names = ("contribution_normalisation", "ema_decay", "attention", "weights", "store_dtype", "store_form")
        collector = cls(allow_unsealed=allow_unsealed, **{name: settings[name] for name in names})
        collector._take(OnDisk(found, settings))
        return collector

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End a stored collection; after an error it only stops, and the same calls go on with it."""
        if kind is None:
            self.seal()
        else:
            self.close()

    @property
    def store(self) -> Path | None:
        """Folder of the store, or None."""
        return self._keeping.folder

    @property
    def sealed(self) -> bool | None:
        """Whether a stored collection has ended; None in memory."""
        return self._keeping.sealed

    def seal(self) -> None:
        """End a stored collection; in memory there is nothing to end, and collecting may go on."""
        self._keeping.seal()

    def unseal(self) -> None:
        """Take the seal off a store, so that more samples can be added; no-op in memory."""
        if self.store is not None:
            self._keeping.unseal()
            self._tasks, self._skipped = self._keeping.samples()  # another process may have added some in between

    def close(self) -> None:
        """Give a store back to other writers without ending its collection; no-op in memory."""
        self._keeping.close()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of their first collection."""
        return tuple(self._tasks)

    @property
    def weights(self) -> tuple[LinearWeight, ...]:
        """What is held: a :class:`qkov.linear_weights.LinearWeight` for each weight; empty before the first collection."""
        return self._weights

    @property
    def left_out(self) -> dict[str, str]:
        """Name the matrices inside the groups asked for that cannot be held, ``{param_name: reason}``."""
        return dict(self._left_out)

    def collect_fisher(
        self,
        model: nn.Module,
        batch: Batches,
        task: str,
        *,
        sample_ids: Iterable[SampleId] | None = None,
        clusters: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        micro_batch: int | None = None,
        non_finite: NonFinite = "error",
        progress: bool = True,
    ) -> None:
        r"""Add the per-sample gradients of a batch, or of many, to a task.

        The gradient of sample i is that of its summed token loss (nats), in eval mode, with respect to the stored
        weights of the attention projections and of what else ``weights`` names. All samples of a pass share one forward
        and one backward.

        Samples usually lie along the first axis of the activations. The first pass of several samples with a loss takes
        one more backward to verify it. Elsewhere (tokens first, all samples joined into one sequence, windows) the
        sample of every token is found out from gradients, exactly, with about log2(N) + 2 more backward passes for
        each pass of N samples. A model that mixes samples is refused unless ``micro_batch=1``.

        Args:
            model: A model whose attention layout is known; see ``QKOVConfig.from_model``. Left as it was.
            batch: Mapping with ``input_ids`` (or ``inputs_embeds``), and optionally ``attention_mask``, ``labels``
                ``[N, T]`` (unshifted, -100: not in the loss), ``position_ids``; or an iterable of such mappings. With a
                ``loss_fn``, any mapping of tensors whose first axis is the sample.
            task: Name of the task; samples are appended.
            sample_ids: Ints or strings, one type per task; default: the next integers, with a store from 0 on again in each
                process. An id that is known with the same input and loss is skipped: that is how a stored run resumes.
            clusters: One label per sample (document, template) for statistics; kept, not used here.
            loss_fn: ``loss_fn(model, batch) -> losses [N]`` or ``(losses [N], tokens [N])``; must not mix samples.
                Default: causal language modelling, ``qkov.losses.causal_lm_loss``.
            micro_batch: Samples per pass; default: by a budget of tokens, or fewer to keep to ``memory_budget``, which
                refuses a number that does not fit. Halved, with a logged warning, where an accelerator has too little memory.
            non_finite: What to do with a sample whose loss or gradient is NaN or infinite: "error" (default), or "skip": its
                pass is repeated sample by sample, the samples that fail are left out, listed by :meth:`skipped` with the
                reason, and warned of. A task is then not the one that was given: which samples fail is no accident.
            progress: Show a bar when the work takes longer than two seconds.

        Raises:
            BatchError, NonFiniteError, SampleIdError, ModelChangedError, LayoutError: Nothing of the pass in which it
                happens is kept; earlier passes are.
        """
        passes.check_call(task, micro_batch)
        non_finite_gradients.check_choice(non_finite)
        model = uncompiled(model)
        self._bind(model)
        loss_fn = loss_fn or losses.causal_lm_loss
        if self._seen[0] is not loss_fn:  # the loss is what calls the model
            self._seen = loss_fn, sample_rows.FirstAxis()
        known = {one.sample_id: one.digest for one in self._tasks.get(task, {}).values()}
        ids = passes.Supply(sample_ids, "sample_ids") if sample_ids is not None else self._numbers(task)
        supplies = ids, passes.Supply(clusters, "clusters")
        name, skipped = passes.full_name(loss_fn), self._skipped.setdefault(task, {})  # type: ignore[arg-type]  # never None here
        with self._keeping.interruption() as interrupted:
            for found in self._keeping.passes(
                model, batch, task, known, self.config, self._weights, loss_fn, self._seen[1], *supplies,
                micro_batch=self._micro_batch(model, loss_fn, micro_batch), progress=progress, skipped=skipped,  # type: ignore[arg-type]  # never None here
                skip=non_finite == "skip", plan=self._keeping.plan(model, self.config, self._weights, task),
            ):  # fmt: skip
                self._keeping.add_skipped(task, skipped)
                kept = self._keeping.keep(task, name, found, self.config)
                self._tasks.setdefault(task, {}).update((one.sample_id, one) for one in kept)
                if interrupted is not None:
                    interrupted.check(
                        f"{len(self._tasks[task])} samples of task {task!r} are committed in {str(self.store)!r}. To go on, "
                        "run the same command, or call collect_fisher with the same arguments, again."
                    )
        if task not in self._tasks:  # a batch of no samples makes an empty task
            self._tasks[task] = {}
            self._keeping.add_task(task)
        self._keeping.add_skipped(task, skipped)
        for supply in supplies:
            supply.check_used(task)
        if isinstance(ids, passes.Numbers):
            self._next_number[task] = ids.next

    def samples(self, task: str) -> tuple[Sample, ...]:
        """Return the samples of a task in the order of collection, to compute with.

        Args:
            task: A collected task.

        Returns:
            A tuple of samples.

        Raises:
            UnknownTaskError: If the task was never collected.
            UnsealedStoreError: If the collection is stored and has not ended, and that is not allowed.
        """
        if self.sealed is False and not self.allow_unsealed:
            raise UnsealedStoreError(
                f"collection into {str(self.store)!r} has not ended, so scores would rest on part of the samples. Call "
                "seal() when all tasks are collected, or give FisherCollector(store=..., allow_unsealed=True)."
            )
        return self._members(task)

    def _members(self, task: str) -> tuple[Sample, ...]:
        if task not in self._tasks:
            known = ", ".join(map(repr, self._tasks)) or "none"
            raise UnknownTaskError(f"no task {task!r} was collected; known tasks: {known}.")
        return tuple(self._tasks[task].values())

    def sample(self, task: str, sample_id: SampleId) -> Sample:
        """Return one sample of a task by its id.

        Args:
            task: A collected task.
            sample_id: The id that it was collected under.

        Returns:
            The sample.

        Raises:
            UnknownTaskError: If the task was never collected.
            UnknownSampleError: If the task holds no such id.
        """
        for one in self._members(task):
            if one.sample_id == sample_id and isinstance(sample_id, str) == isinstance(one.sample_id, str):
                return one
        ids = [one.sample_id for one in self._members(task)]
        raise UnknownSampleError(
            f"task {task!r} has no sample {sample_id!r}; it holds {len(ids)} samples"
            + (f" from {ids[0]!r} to {ids[-1]!r}." if ids else ".")
        )

    def sample_ids(self, task: str) -> tuple[SampleId, ...]:
        """Return the ids of the samples of ``task`` in the order of collection."""
        return tuple(one.sample_id for one in self._members(task))

    def skipped(self, task: str) -> dict[SampleId, str]:
        """Return ``{id: reason}`` of the samples of ``task`` that ``non_finite="skip"`` has left out and that are not
        there since.
        """
        self._members(task)  # refuses a task that was never collected
        return dict(self._skipped.get(task, {}))

    def clusters(self, task: str) -> dict[SampleId, Any]:
        """Return ``{id: cluster label or None}`` of the samples of ``task``."""
        return {one.sample_id: one.cluster for one in self._members(task)}

    @property
    def contribution_cache(self) -> Mapping[str, Mapping[str, Mapping[str, torch.Tensor]]]:
        """Contributions ``C_i`` by task, then ``f"{task}_{id}"``, then parameter name; full shape, built on demand."""
        return LazyMapping(self._tasks, self._task_contributions, UnknownTaskError)

    def get_sample_gradients(self, task: str, sample_id: SampleId) -> Mapping[str, torch.Tensor]:
        """Return ``{param_name: g}`` of one sample, by ``task`` and ``sample_id``: raw gradients of its summed loss,
        built on demand.
        """
        return self._gradients(self.sample(task, sample_id))

    def get_group_fisher(
        self, task: str, mode: GroupFisherMode = "ema", layers: Iterable[int] | None = None
    ) -> dict[tuple[int, str], torch.Tensor]:
        r"""Reduce each slice to one number: the mean over samples of the sum over its parameters of ``C_ik``.

        Args:
            task: A collected task.
            mode: "welford" (plain mean) or "ema" (exponential mean, bias-corrected).
            layers: Layer numbers; default all.

        Returns:
            ``{(layer, block): float64 [heads]}``; K and V have one entry per kv head.
        """
        formula.require_choice("mode", mode, ("ema", "welford"))
        if mode == "welford":
            return {key: state.mean for key, state in self.group_statistics(task, layers).items()}
        found = self._group_contributions(task, layers)
        return {key: handed_out.exponential_mean(values, self.ema_decay) for key, values in found.items()}

    def group_statistics(self, task: str, layers: Iterable[int] | None = None) -> dict[tuple[int, str], fisher.Welford]:
        """Return ``{(layer, block): Welford}`` over samples of the per-head sums of ``C_ik``: mean, variance, error.

        Args:
            task: A collected task.
            layers: Layer numbers; default all.

        Returns:
            A state for each layer and block, of shape ``[heads]``; K and V have one entry per kv head.
        """
        return {key: fisher.Welford.of(values) for key, values in self._group_contributions(task, layers).items()}

    def _group_contributions(
        self, task: str, layers: Iterable[int] | None = None
    ) -> dict[tuple[int, str], torch.Tensor]:
        members = self.samples(task)
        layouts = self.config.layers if layers is None else map(self.config.layer, layers)
        return handed_out.head_contributions(members, layouts, self.contribution_normalisation)

    def _task_contributions(self, task: str) -> Mapping[str, Mapping[str, torch.Tensor]]:
        keys = {f"{task}_{one.sample_id}": one for one in self._members(task)}
        return LazyMapping(keys, lambda key: self._contributions(keys[key]), UnknownSampleError)

    def _contributions(self, sample: Sample) -> Mapping[str, torch.Tensor]:
        grads = self._gradients(sample)
        return handed_out.sample_contributions(grads, sample.num_tokens, self.contribution_normalisation)

    def _gradients(self, sample: Sample) -> Mapping[str, torch.Tensor]:
        return handed_out.sample_gradients(sample, self._weights, self.config)

    def _bind(self, model: nn.Module) -> None:
        check_one_device(model)
        begun = any(self._tasks.values()) if self.store is None else self._keeping.layout() is not None
        if begun:
            self._keeping.require_same(model, self.config)
            return
        # Nothing is held yet, so a failed first call binds to no model.
        self.config = QKOVConfig.from_model(model, attention=self.attention)
        self._weights = linear_weights.find_linear_weights(model, self.config, self._asked)
        self._left_out = linear_weights.explain_left_out(model, self.config, self._asked)
        self._seen = None, None
        self._keeping.begin(model, self.config, self._weights, self._left_out)
        self.model_fingerprint = self._keeping.fingerprint

    def _micro_batch(
        self, model: nn.Module, loss_fn: LossFunction, asked: int | None
    ) -> int | Callable[[Mapping[str, Any], Sequence[int]], int] | None:
        """What the budget allows, chosen batch by batch; what was asked for where there is none."""
        return collection_budget.chooser(
            self.memory_budget, model, config=self.config, weights=self._weights, loss_fn=loss_fn, micro_batch=asked,
            stored=self.store is not None, store_dtype=self._keeping.dtype,
        )  # fmt: skip

    def _numbers(self, task: str) -> Supply | Numbers:
        """Ids of samples that were given none. In a store they begin at 0 again in each process, so that it resumes."""
        if self.store is None or any(isinstance(one, str) for one in self._tasks.get(task, ())):
            return passes.Supply(None, "sample_ids")
        return passes.Numbers(self._next_number.get(task, 0))

    def _take(self, keeping: OnDisk | SharedOnDisk) -> None:
        """Take over what a store holds."""
        self._keeping = keeping
        if (found := keeping.layout()) is not None:
            self._weights, self.config, self._left_out = found
            self._tasks, self._skipped = keeping.samples()
            self.model_fingerprint = keeping.fingerprint


def check_one_device(model: nn.Module) -> None:
    """Refuse a model whose parameters lie on several devices, or on none."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if "meta" in devices:
        name = next(name for name, parameter in model.named_parameters() if parameter.is_meta)
        raise LayoutError(
            f"{name!r} of {type(model).__name__} is on the meta device: its values are not loaded, or were offloaded. Load "
            "the whole model on one device, without device_map offloading."
        )
    if len(devices) != 1:
        raise LayoutError(
            f"the parameters of {type(model).__name__} are on {', '.join(devices) or 'no device'}; expected one "
            "device. Collection from a model spread over devices has not been tried: load it on one."
        )
