"""Dot products of per-sample gradients beside Opacus and Kronfluence, on a Llama with grouped kv heads.

Opacus forms every sample's gradient of the attention weights, which are then multiplied slice by slice. Kronfluence forms
its pairwise scores with the strategy "identity", which are dot products too, a module each. Ours is variant "dot" of all
slices; both must give the same numbers. Every route runs passes of the same number of tokens. Kronfluence freezes all
weights by itself; with Opacus it is done by hand for the goal, and shown as well is how long it takes if it is not.

Neither package is needed by qkov: ``nox -s bench`` installs them, and what is missing is not run.
"""

import copy
import importlib
import warnings

import torch

import qkov
from qkov import losses

from . import clock, shapes, stacked
from .end_to_end import TOKENS_A_PASS, attention_weights
from .goals import DisagreementError, Measured

PACKAGES = {"opacus": ("opacus", "opacus-all"), "kronfluence": ("kronfluence",)}
BOUND = 1e-4  # a dot product of 65,536 terms or more, of both signs, against the largest of its module


def ours(model, batches):
    """Collect both tasks and form all dot products, a slice each."""
    collector = qkov.FisherCollector()
    for task, batch in batches.items():
        collector.collect_fisher(model, batch, task, progress=False)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, variant="dot", aggregate="sum")
    return metric.compute_heatmap(*batches, progress=False)


def opacus_model(model, config, *, freeze=True):
    """A copy that Opacus has wrapped. In training mode, outside of which it collects nothing; there is no dropout.

    With ``freeze`` only the attention weights require a gradient, which is the least work; without, all weights do, as in a
    model that nobody has prepared.
    """
    from opacus import GradSampleModule

    twin = copy.deepcopy(model).train().requires_grad_(True)
    if freeze:
        attention_weights(twin, config)
    return GradSampleModule(twin, loss_reduction="sum")


def by_opacus(wrapped, config, batches):
    """Stack ``grad_sample`` of every pass and score it."""
    found = []
    wanted = {projection.slice_of(0).param_name for layout in config.layers for projection in layout.projections}
    for batch in batches.values():
        ids, chunk = batch["input_ids"], max(1, TOKENS_A_PASS // batch["input_ids"].shape[1])
        named = {name.removeprefix("_module."): one for name, one in wrapped.named_parameters()}
        weights = {name: named[name] for name in wanted}
        stacks = {name: one.new_empty(len(ids), *one.shape) for name, one in weights.items()}
        for start in range(0, len(ids), chunk):
            wrapped.zero_grad(set_to_none=True)  # the gradients of single samples too
            losses.causal_lm_loss(wrapped, {"input_ids": ids[start : start + chunk]})[0].sum().backward()
            for name, one in weights.items():
                stacks[name][start : start + chunk] = one.grad_sample
        found.append(stacks)
    wrapped.zero_grad(set_to_none=True)
    with torch.no_grad():
        return stacked.scores(config, *found, None, variant="dot", aggregate="sum")


def kronfluence_model(model, modules):
    """A copy that Kronfluence has prepared, and its task: the token sum of the loss, on both sides."""
    from kronfluence.analyzer import prepare_model
    from kronfluence.task import Task

    class SummedLoss(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return losses.causal_lm_loss(model, batch)[0].sum()

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return modules

    task = SummedLoss()
    return prepare_model(copy.deepcopy(model).eval(), task), task


def by_kronfluence(prepared, batches):
    """Pairwise scores of all modules, ``{module_name: [n_a, n_b]}``; all of A in memory, B passing by once."""
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.score.pairwise import compute_pairwise_scores_with_loaders
    from kronfluence.utils.state import State

    model, task = prepared
    loaders = {}
    for name, batch in batches.items():
        rows = [{"input_ids": one} for one in batch["input_ids"]]
        chunk = max(1, TOKENS_A_PASS // batch["input_ids"].shape[1])
        loaders[name] = torch.utils.data.DataLoader(rows, batch_size=chunk)
    return compute_pairwise_scores_with_loaders(
        loaded_factors={}, model=model, state=State(cpu=True), task=task, query_loader=loaders["a"],
        per_device_query_batch_size=loaders["a"].batch_size, train_loader=loaders["b"],
        score_args=ScoreArguments(query_gradient_accumulation_steps=len(loaders["a"]), compute_per_module_scores=True),
        factor_args=FactorArguments(strategy="identity"), tracked_module_names=None, disable_tqdm=True,
    )  # fmt: skip


def by_module(config, scores):
    """Sums over heads of the scores of each module: what one that knows no heads gives."""
    return {
        projection.module_name: scores[layout.layer, projection.block].sum(0)
        for layout in config.layers
        for projection in layout.projections
    }


def missing(name):
    """Why a package cannot be used, or an empty string; it is imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed; nox -s bench installs what the group bench of pyproject.toml names"
    return ""


def measure(sizes, say=None):
    """Time whichever of the packages is there beside ours, and compare the numbers."""
    absent = {package: reason for package in PACKAGES if (reason := missing(package))}
    not_run = {goal: reason for package, reason in absent.items() for goal in PACKAGES[package]}
    if len(absent) == len(PACKAGES):
        return Measured(values={}, conditions={}, not_run=not_run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        return _measure(sizes, say, not_run)


def _measure(sizes, say, not_run):
    model = shapes.llama(sizes)
    config = qkov.QKOVConfig.from_model(model)
    vocabulary = model.config.vocab_size
    batches = {
        name: shapes.tokens(sizes.samples, sizes.tokens, vocabulary, seed) for name, seed in (("a", 1), ("b", 2))
    }
    variants = {"ours": clock.Timed(lambda: ours(model, batches))}
    if "opacus" not in not_run:
        careful, plain = opacus_model(model, config), opacus_model(model, config, freeze=False)
        variants["opacus"] = clock.Timed(lambda: by_opacus(careful, config, batches))
        variants["opacus-all"] = clock.Timed(lambda: by_opacus(plain, config, batches))
    if "kronfluence" not in not_run:
        modules = list(dict.fromkeys(one.module_name for layout in config.layers for one in layout.projections))
        prepared = kronfluence_model(model, modules)
        variants["kronfluence"] = clock.Timed(lambda: by_kronfluence(prepared, batches))
    few = {name: shapes.tokens(2, 8, vocabulary, 3) for name in batches}
    ours(model, few)
    seconds, results = clock.interleaved(variants, repeats=sizes.repeats, say=say)
    expected = stacked.of_metric(config, results["ours"])
    differences, wrong = {}, {}
    for name in variants.keys() - {"ours"}:
        reference = by_module(config, expected) if name == "kronfluence" else expected
        try:
            differences[name] = stacked.worst_difference(results[name], reference, BOUND, f"dot products by {name}")
        except DisagreementError as error:
            wrong[name] = str(error)
    said = (
        f"Llama, {sizes.llama_layers} layers, d {sizes.llama_hidden}, 8 heads, 2 kv heads, {vocabulary:,} tokens of "
        f"vocabulary; {sizes.samples} + {sizes.samples} samples of T = {sizes.tokens}; numbers agree to {{:.1g}}"
    )
    return Measured(
        values={name: clock.ratio(seconds, "ours", name) for name in differences},
        conditions={name: said.format(value) for name, value in differences.items()},
        not_run=not_run,
        wrong=wrong,
        details={"seconds": seconds, "differences": differences},
    )
