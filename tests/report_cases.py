"""Results for the tests of reports: made up, of any size, and in every situation that statistics can be in."""

import dataclasses

import numpy as np

from qkov.geometry import BLOCKS
from qkov.head_statistics import HeadStatistics
from qkov.prediction_result import Prediction
from qkov.statistics import exchange, source
from tests.heatmaps import make_heatmap

CLAIMS = {"source": source._CLAIMS["greater"], "exchange": exchange._WORDS["sym"]["claim"]}
EFFECTS = {"source": "ratio of geometric mean lifts, A to R", "exchange": exchange._WORDS["sym"]["effect_name"]}


def labels_of(heatmap):
    """``(block, layer, unit)`` in true numbers of every slice."""
    units = {block: heatmap.kv_heads if block in "KV" else heatmap.heads for block in BLOCKS}
    return [
        (block, heatmap.layers[row], units[block][unit])
        for block in BLOCKS
        for row, unit in np.argwhere(heatmap.exists(block)).tolist()
    ]


def make_statistics(
    heatmap, *, main="source", strong=3, weak=5, untested=0, clusters=40, min_p=1e-4, seed=3, notes=(), reference="chat"
):
    """Tests of every slice of a heatmap: the first ``strong`` survive the family-wise error, ``weak`` more only q."""
    labels = labels_of(heatmap)
    number, random = len(labels), np.random.default_rng(seed)
    p_maxt = np.full(number, 0.6)
    q = np.full(number, 0.5)
    p = random.uniform(0.06, 1, number)
    p_maxt[:strong], q[: strong + weak], p[: strong + weak] = 0.0123, 0.0345, 0.00123
    effect = np.exp(0.2 * random.normal(size=number)) if main == "source" else 0.2 * random.normal(size=number)
    main_columns = {"statistic": random.normal(size=number), "effect": effect, "p": p, "q": q, "p_maxt": p_maxt}
    columns = {f"{main}_{name}": values for name, values in main_columns.items()}
    columns |= {
        "lift": 1 + 0.3 * random.normal(size=number) ** 2,
        "lift_low": np.full(number, 0.9),
        "lift_high": np.full(number, 2.2),
    }
    if main == "source":
        columns |= {"source_effect_low": effect * 0.9, "source_effect_high": effect * 1.1}
        columns |= {f"exchange_{name}": values for name, values in main_columns.items()}
    if untested:
        for values in columns.values():
            values[len(values) - untested :] = np.nan
    layers = sorted({layer for _, layer, _ in labels})
    tasks = [heatmap.task_a, heatmap.task_b, *([reference] if main == "source" else [])]
    words = {
        "null": "exchangeable", "alternative": "greater", "unit": "clusters", "n_permutations": 9999, "n_distinct": "1000000",
        "min_p": min_p, "seed": 1,
    }  # fmt: skip
    return HeadStatistics(
        blocks=tuple(block for block, _, _ in labels),
        layers=tuple(layer for _, layer, _ in labels),
        units=tuple(unit for _, _, unit in labels),
        columns=columns,
        by_layer={name: np.linspace(0.1, 0.9, len(layers)) for name in ("statistic", "p", "q", "p_maxt")},
        attributes={
            "task_a": heatmap.task_a,
            "task_b": heatmap.task_b,
            "reference_task": reference if main == "source" else None,
            "main_test": main,
            "tests": {one: words | {"claim": CLAIMS[one], "effect": EFFECTS[one]} for one in ("exchange", main)},
            "num_samples": dict.fromkeys(tasks, 2 * clusters),
            "num_clusters": dict.fromkeys(tasks, clusters),
            "level": 0.95,
            "lift_note": "approximate",
            "reliability": {},
            "num_heads": {str(layer): len(heatmap.heads) for layer in layers},
            "num_kv_heads": {str(layer): len(heatmap.kv_heads) for layer in layers},
            "notes": list(notes),
        },
    )


def make_prediction(heatmap, *, shift=0.1, clusters=True, seed=5):
    """A prediction for every slice of a heatmap; ``shift`` is the mean change of a sample, in units of its deviation."""
    labels = labels_of(heatmap)
    random, samples = np.random.default_rng(seed), 24
    return Prediction(
        blocks=tuple(block for block, _, _ in labels),
        layers=tuple(layer for _, layer, _ in labels),
        units=tuple(unit for _, _, unit in labels),
        sample_a=tuple(range(samples)),
        first=random.normal(size=(samples, len(labels))) * 0.01 + 0.01 * shift,
        second=np.full((samples, len(labels)), 1e-4),
        influence=random.normal(size=(4, len(labels))),
        descent=np.full(len(labels), 0.1),
        tokens_a=np.full(samples, 10),
        codes_a=np.arange(samples) if clusters else None,
        codes_b=np.arange(4) if clusters else None,
        step_size=0.5,
        attributes={
            "task_a": heatmap.task_a,
            "task_b": heatmap.task_b,
            "optimiser": "sgd",
            "curvature": "diagonal",
            "curvature_task": None,
            "estimand": "step",
            "level": 0.95,
            "num_heads": {str(layer): len(heatmap.heads) for layer in heatmap.layers},
            "num_kv_heads": {str(layer): len(heatmap.kv_heads) for layer in heatmap.layers},
        },
    )


def empty_heatmap(**fields):
    """A comparison with a task without samples."""
    whole = make_heatmap(num_b=0, **fields)
    return dataclasses.replace(
        whole,
        health={
            block: {stat: np.full_like(values, np.nan) for stat, values in whole.health[block].items()}
            for block in BLOCKS
        },
    )


def huge_heatmap(layers=80, heads=64, kv_heads=8, **fields):
    """As many slices as the largest open models have."""
    return make_heatmap(
        layers=tuple(range(layers)), heads=tuple(range(heads)), kv_heads=tuple(range(kv_heads)), **fields
    )
