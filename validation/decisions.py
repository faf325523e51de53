"""D0: what is decided from a given file is the same on any machine.

Three small files are committed: gradients of three tasks, a heatmap of eighths full of ties, and a result of conflicts.
From them follow exceedance counts, the order of slices, what survives at 0.05, lists of the strongest pairs, samples in
conflict and advice: integers, ids and choices that must be the same everywhere, and floats that agree to 1e-12. `python -m
validation.decisions` prints them; :mod:`validation.decisions_evidence` asks several processes, and makes the files.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

import qkov
from qkov import result_file
from qkov.errors import StatisticsWarning
from qkov.geometry import BLOCKS
from qkov.statistics import conformal_samples, test_exchange, test_source

from . import environments

FOLDER = Path(__file__).resolve().parent / "reference"
FORMAT = {"format_name": "qkov-decisions", "format_version": 1}
SEED, PERMUTATIONS, LEVEL = 20260101, 499, 0.05  # fewer than there are, so that they are drawn
LABELS = {"a": (0, 0, 1, 2, 3, 3, 4, 5), "r": (0, 1, 1, 2, 3, 4, 4, 5), "b": (0, 1, 2, 2, 3, 4, 5, 5)}
"""Clusters of the samples in the file of gradients."""
UNPLANTED = 5
"""A slice in which no task favours any parameter."""


def decide(folder=FOLDER):
    """Make every decision.

    Returns:
        ``{"exact": {name: integers, ids, choices}, "floats": {name: numbers}}``, JSON-able.
    """
    exact, floats = {}, {}
    for part in (of_gradients, of_heatmap, of_conflicts):
        found, numbers = part(Path(folder))
        exact |= found
        floats |= numbers
    return json.loads(json.dumps({"exact": exact, "floats": floats}, allow_nan=False))


def of_gradients(folder):
    """Tests of slices: counts, order, survivors; samples chosen by conformal p values."""
    _, grads = result_file.read(folder / "gradients.safetensors", **FORMAT)
    labels = {task: [f"{task}{one}" for one in codes] for task, codes in LABELS.items()}
    drawn = {"n_permutations": PERMUTATIONS, "seed": SEED}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StatisticsWarning)  # few clusters, on purpose: the files are small
        tests = {
            "source": test_source(
                grads["a"], grads["r"], grads["b"], clusters_a=labels["a"], clusters_r=labels["r"], **drawn
            ),
            **{
                statistic: test_exchange(
                    grads["a"], grads["b"], clusters_a=labels["a"], clusters_b=labels["b"], statistic=statistic, **drawn
                )
                for statistic in ("sym", "asym")
            },
        }
        sizes = [np.square(grads[task][:, UNPLANTED].astype(np.float64)).sum(1) for task in ("a", "r")]
        chosen = conformal_samples(*sizes)
    exact, floats = {}, {}
    for name, found in tests.items():
        draws = 1 + found.n_permutations
        exact[f"{name} counts"] = np.rint(found.p * draws).astype(int).tolist()
        exact[f"{name} family counts"] = np.rint(found.p_maxt * draws).astype(int).tolist()
        exact[f"{name} order"] = np.argsort(found.p, kind="stable").tolist()
        exact[f"{name} survivors"] = np.flatnonzero(found.p_maxt <= LEVEL).tolist()
        exact[f"{name} discoveries"] = np.flatnonzero(found.q_bh <= LEVEL).tolist()
        floats[f"{name} statistic"], floats[f"{name} effect"] = found.statistic.tolist(), found.effect.tolist()
    exact["conformal counts"] = np.rint(chosen.p * (1 + len(sizes[1]))).astype(int).tolist()
    return exact, floats


def of_heatmap(folder):
    """Lists of the strongest pairs and the order of heads, among many ties."""
    heatmap = qkov.load_heatmap(folder / "heatmap.safetensors")
    exact = {"heatmap fingerprint": heatmap.fingerprint}
    for block in BLOCKS:
        rows = heatmap.top_conflicts(block, top_k=12)
        exact[f"top {block}"] = [[row["sample_i"], row["sample_j"], row["layer"], row["head"]] for row in rows]
        exact[f"heads {block}"] = np.argsort(-heatmap.mean_map(block), axis=None, kind="stable").tolist()
    return exact, {f"mean {block}": heatmap.mean_map(block).ravel().tolist() for block in BLOCKS}


def of_conflicts(folder):
    """Samples in conflict, groups by their cosine, and what to leave out."""
    found = qkov.load_conflicts(folder / "conflicts.safetensors")
    advice = found.advice(seed=SEED)
    columns = found.columns
    exact = {
        "in conflict": {label: list(found.in_conflict(label)) for label in found.labels},
        "negative cosines": (found.cosines < 0).sum((0, 1)).tolist(),
        "groups by cosine": np.argsort(columns["mean_cosine"], kind="stable").tolist(),
        "leave out": list(advice.left_out),
        "against": np.argsort(advice.against, kind="stable").tolist(),
    }
    return exact, {"cosines": found.cosines.ravel().tolist(), "mean cosine": columns["mean_cosine"].tolist()}


def main():
    """Print decisions and the probe of this process."""
    print(json.dumps(decide() | {"probe": environments.probe()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
