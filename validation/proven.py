"""Every architecture measured: its heads found, proved by experiment, scored like the reference, added up, relabelled.

A tiny random model of each family in float64. Two of its traits are taken out for the experiments on the layout alone,
not for the scores: a norm that spans several heads (it makes heads depend on each other, whatever the map) and a gate
inside the query projection (its rows belong to no block).
"""

import functools

import torch
from tqdm.auto import tqdm

from qkov import checks, samples
from qkov.errors import LayoutError
from qkov.layout import QKOVConfig

from . import architectures, suite

# What a law does not cover in a family: the check fails there for this reason, and counts as not run.
_SINKS = "every head has a sink of its own beside its slices, which the permutation would have to move too"
_GATES = "every head has a gate of its own beside its slices, which the permutation would have to move too"
_SCALES = "every head has a scale of its own beside its slices, which the permutation would have to move too"
_POSITIONS = "every head has its own bias by distance, which the permutation would have to move too"
_GATE_ROWS = "the query projection also holds rows of a gate, which belong to no block"
_REASONS = (
    (_SINKS, ("relabelling",), "flint gpt_oss granite_swa granitemoe_swa mimo_v2_flash"),
    (_GATES, ("relabelling",), "afmoe laguna lfm3 bailing_hybrid dots3_note hy_v4"),
    (_SCALES, ("relabelling",), "mistral_large4_text"),
    (_POSITIONS, ("relabelling",), "mpt bloom mpnet t5 mt5 umt5 layoutlmv3 switch_transformers"),
    (
        _POSITIONS,
        ("relabelling",),
        "t5-encoder t5-decoder mt5-encoder mt5-decoder umt5-encoder umt5-decoder switch_transformers-encoder "
        "switch_transformers-decoder",
    ),
    (_GATE_ROWS, ("slices_tile", "head_additivity", "relabelling"), "axk2 qwen3_next qwen3_5 qwen3_5_moe"),
    (
        "keys of positions have a projection of their own, which acts where the keys of the content are gone",
        ("relabelling", "zeroed_weights"),
        "deberta_v2",
    ),
)
EXCEPTIONS = {
    family: {check: reason for check in names} for reason, names, families in _REASONS for family in families.split()
} | {name: one.outside for name, one in architectures.ARCHITECTURES.items() if one.outside}

SCORES = ("reference_gradients", "reference_scores", "head_additivity")
LAYOUT = (*checks.LAYOUT_PROOF, "relabelling")
NUM_SAMPLES = 3


def run_architectures(names=None, *, jobs=2, progress=True):
    """Measure families in processes of one thread each.

    Returns:
        ``(rows, refused)``: a row per family, and a row per family that must be refused.
    """
    names = list(architectures.ARCHITECTURES if names is None else names)
    with suite.process_pool(jobs) as pool:
        found = pool.map(measure_architecture, names, chunksize=8)
        rows = list(tqdm(found, total=len(names), desc="families", disable=not progress))
        refused = list(pool.map(measure_refusal, architectures.REFUSED, chunksize=4))
    return rows, refused


def measure_architecture(name):
    """Find, prove and score one family; a row of the evidence."""
    architecture = architectures.ARCHITECTURES[name]
    model, _ = architectures.build(architecture)
    config = QKOVConfig.from_model(model, attention=architecture.attention)
    not_run = dict(EXCEPTIONS.get(name, {}))
    results = run_checks(name, [check for check in (*SCORES, *LAYOUT) if check not in not_run])
    failed = [str(result) for result in results if result.status == "failed"]
    not_run |= {result.check: result.reason for result in results if result.status == "not run"}
    first = config.layers[0]
    return {
        "family": name,
        "model_class": architecture.model_class,
        "attention_class": type(model.get_submodule(first.module_name)).__name__,
        "packing": first.packing,
        "num_heads": first.num_heads,
        "num_kv_heads": first.num_kv_heads,
        "head_dim": first.head_dim,
        "k_head_dim": first.k_head_dim,
        "v_head_dim": first.v_head_dim,
        "hidden_size": first.hidden_size,
        "checks_passed": sum(result.passed for result in results),
        "checks_not_run": not_run,
        "compared": sum(result.compared for result in results),
        "status": "failed" if failed else "proved",
        "reason": "; ".join(failed),
    }


def run_checks(name, names):
    """Run checks on a family: those of scores as it is, those of the layout without what couples its heads."""
    architecture = architectures.ARCHITECTURES[name]
    model, inputs = architectures.build(architecture)
    scored = _case(architecture, model, inputs)
    model, inputs = architectures.build(architecture)
    proved = _case(architecture, architectures.decouple(model, architecture), inputs)
    return [checks.run_check(check, proved if check in LAYOUT else scored) for check in names]


def measure_refusal(name):
    """Show that a family without heads of its own is refused, and with which words; a row of the evidence."""
    architecture, words = architectures.REFUSED[name]
    model, _ = architectures.build(architecture)
    try:
        QKOVConfig.from_model(model, attention=architecture.attention)
    except LayoutError as error:
        said = str(error)
    else:
        said = ""
    status = "refused" if words in said else "failed"
    return {"family": name, "model_class": architecture.model_class, "status": status, "reason": said}


def output_loss(model, batch, output=""):
    """A loss for any model, one number per sample: an output (the first) squared, weighted by a fixed pattern."""
    outputs = model(**batch)
    if output:
        outputs = getattr(outputs, output)
    if not isinstance(outputs, torch.Tensor):
        outputs = next(iter(outputs.values() if hasattr(outputs, "values") else outputs))
    # Some join their samples, which are equally large here, into one sequence.
    flat = outputs.reshape(samples.batch_size(batch), -1)
    weights = torch.sin(torch.arange(flat.shape[1], dtype=flat.dtype) * 0.7)
    return (flat.square() * weights).sum(1)


def _case(architecture, model, inputs):
    batch_a, batch_b = (_batch(inputs, seed, architecture.fixed) | _more(architecture.name, seed) for seed in (1, 2))
    with torch.no_grad():
        model(**batch_a)  # some convert a part of themselves in their first pass
    loss_fn = None if architecture.is_causal_lm else functools.partial(output_loss, output=architecture.output)
    return checks.Case(architecture.name, model, batch_a, batch_b, loss_fn, attention=architecture.attention)


def _more(name, seed):
    """What a family needs so that two passes compute the same: which patches to hide."""
    if name != "vit_mae":
        return {}
    return {"noise": torch.rand(NUM_SAMPLES, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)}


def _batch(inputs, seed, fixed):
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for name, value in inputs.items():
        shape = (NUM_SAMPLES, *value.shape[1:])
        if name in fixed:
            batch[name] = value.repeat(NUM_SAMPLES, *[1] * (value.ndim - 1))
        elif value.is_floating_point():
            batch[name] = torch.randn(shape, generator=generator, dtype=value.dtype)
        else:
            batch[name] = torch.randint(3, architectures.VOCAB_SIZE, shape, generator=generator)
    return batch
