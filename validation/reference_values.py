"""D3: committed values, compared in every validation; `python -m validation.reference_values` rewrites them.

Of each model: averages of the slices in every variant, Fisher sums, and the strongest pairs, in float32 as the package
computes them, and for the models of :mod:`validation.reference_models` also in float64 by the slow loops of `qkov.reference`.
A comparison is made only where data and weights are the committed ones; elsewhere it counts as not run. The models whose
weights follow from integers are the same everywhere, and another weight there is a failure.

Rewriting refuses a checkout with changes: committed values name the commit that made them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import qkov
from qkov import checks, interference, reference, reproducibility, tiers
from qkov.errors import QKOVWarning
from qkov.geometry import BLOCKS

from . import decisions, decisions_evidence, models, reference_models, suite, tasks, trained

ROOT = Path(__file__).resolve().parent.parent
FORMAT = "qkov-reference-1"
PATH = decisions.FOLDER / "values.json"
SINGLE, EXACT = tiers.D3_SINGLE, 1e-9
"""What D3 promises in float32, and float64 loops on any machine."""
TRAINED = ("trained-llama", "trained-gpt2")
LOOPED = ("unsigned", "natural", "signed", "symmetric", "dot")
VARIANTS = (*LOOPED, "full", "kfac")
TOP = 10


def build(name):
    """``(model, batch_a, batch_b)`` of a reference model or a trained one."""
    if name in reference_models.NAMES:
        return reference_models.build(name), reference_models.batch("a"), reference_models.batch("b")
    return models.CASES[name].build()[:3]


def key_of(name, model, *batches):
    """What must be equal before values are compared: the data's fingerprint and the weights'."""
    corpus = [] if name in reference_models.NAMES else [tasks.corpus_fingerprint()]
    return {"data": [reference_models.batch_digest(*batches), *corpus], "weights": trained.weights_digest(model)}


def measure(model, batch_a, batch_b):
    """Collect and score as a user would.

    Returns:
        ``{"scores": {variant: {block: {"mean": [layers][units], "largest": number}}}, "fisher": {"task mode layer block":
        [units]}, "top": {block: rows}}``.
    """
    held = qkov.FisherCollector()
    for task, batch in (("a", batch_a), ("b", batch_b)):
        held.collect_fisher(model, batch, task, progress=False)
    scores, top = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QKOVWarning)  # few samples, on purpose
        for variant in VARIANTS:
            metric = interference.QKOVInterferenceMetric(
                held.config, held, variant=variant, fisher_pool="pooled", aggregate="sum", min_samples_for_fisher=1
            )
            found = metric.compute_heatmap("a", "b", progress=False)
            scores[variant] = {block: averages(found.arrays[block]) for block in BLOCKS}
            if variant == "unsigned":
                top = {block: found.top_conflicts(block, top_k=TOP) for block in BLOCKS}
    sums = {
        f"{task} {mode} {layer} {block}": values.tolist()
        for task in ("a", "b")
        for mode in ("welford", "ema")
        for (layer, block), values in held.get_group_fisher(task, mode=mode).items()
    }
    return {"scores": scores, "fisher": sums, "top": top}


def averages(scores):
    """The average of each slice, and the largest score of the block, which is what errors are relative to."""
    return {"mean": scores.mean((0, 1)).tolist(), "largest": float(np.abs(scores).max())}


def measure_slowly(model, batch_a, batch_b):
    """The same averages and Fisher sums in float64, by the slow loops."""
    config = qkov.QKOVConfig.from_model(model)
    sides = [reference.sample_gradients(model, batch) for batch in (batch_a, batch_b)]
    factors = [reference.token_factors(model, batch, config) for batch in (batch_a, batch_b)]

    def slice_scores(variant, layout, block, unit):
        options = {"fisher_pool": "pooled", "aggregate": "sum"}
        if variant == "kfac":
            (_, tokens_a), (_, tokens_b) = sides
            return reference.kfac_scores(factors[0], tokens_a, factors[1], tokens_b, layout, block, unit, **options)
        if variant == "full":
            return reference.full_scores(*sides[0], *sides[1], layout, block, unit, **options)
        return reference.scores(*sides[0], *sides[1], layout, block, unit, variant=variant, **options)

    scores = {
        variant: {
            block: averages(
                np.moveaxis([[slice_scores(variant, layout, block, unit) for unit in range(layout.num_units(block))]
                             for layout in config.layers], (2, 3), (0, 1))
            )
            for block in BLOCKS
        }
        for variant in VARIANTS
    }  # fmt: skip
    return {"scores": scores, "fisher": slow_fisher(config, sides)}


def slow_fisher(config, sides):
    """Fisher sums of every slice, sample by sample: the plain mean, and the exponential one by its recursion."""
    sums = {}
    for task, (grads, tokens) in zip(("a", "b"), sides, strict=True):
        for layout in config.layers:
            for block in BLOCKS:
                every = [
                    [float(np.square(reference.cut(grad, layout, block, unit)).sum()) / count
                     for unit in range(layout.num_units(block))]
                    for grad, count in zip(grads, tokens, strict=True)
                ]  # fmt: skip
                running, weight = np.zeros(layout.num_units(block)), 0.0
                for one in every:
                    running, weight = 0.99 * running + 0.01 * np.array(one), 0.99 * weight + 0.01
                sums[f"{task} welford {layout.layer} {block}"] = np.mean(every, axis=0).tolist()
                sums[f"{task} ema {layout.layer} {block}"] = (running / weight).tolist()
    return sums


def compare(found, committed, tolerance):
    """Compare values with committed ones: averages relative to the block's largest score, Fisher sums to their largest.

    The strongest pairs must be the same ones; where another pair comes as close as the tolerance, they may trade places.
    """
    comparison = checks.Comparison()
    comparison.true(found["scores"].keys() == committed["scores"].keys() and bool(committed["scores"]))
    for variant in found["scores"].keys() & committed["scores"].keys():
        for block in BLOCKS:
            one, two = found["scores"][variant][block], committed["scores"][variant][block]
            comparison.near(one["mean"], two["mean"], scale=two["largest"])
            comparison.near(one["largest"], two["largest"])
    comparison.true(found["fisher"].keys() == committed["fisher"].keys() and bool(committed["fisher"]))
    for name in found["fisher"].keys() & committed["fisher"].keys():
        comparison.near(found["fisher"][name], committed["fisher"][name])
    for block in BLOCKS if "top" in committed and "top" in found else ():
        compare_top(comparison, found["top"][block], committed["top"][block], tolerance)
    return comparison


def compare_top(comparison, found, committed, tolerance):
    """The same pairs with the same scores, but for those within the tolerance of the last one."""
    scores = [{tuple(row[key] for key in ("sample_i", "sample_j", "layer", "head")): row["score"] for row in rows}
              for rows in (found, committed)]  # fmt: skip
    largest = max(map(abs, scores[1].values()), default=0.0)
    for one, two in (scores, scores[::-1]):
        last = min(two.values(), default=0.0)
        for pair, score in one.items():
            if pair in two:
                comparison.near(score, two[pair], scale=largest)
            else:
                comparison.true(score <= last + tolerance * largest)


def measure_reference(path=PATH, names=(*reference_models.NAMES, *TRAINED)):
    """Compare this machine's values with the committed ones.

    Returns:
        ``(results, differences)``: rows of the evidence, and what differs between the environment that made the
        committed values and this one, in words.
    """
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise ValueError(f"{path} has format {document.get('format')!r}; expected {FORMAT!r}. Run `nox -s reference`.")
    results = [row for name in names for row in compare_model(name, document["models"].get(name))]
    return results, differences(document["environment"], reproducibility.environment_record())


def compare_model(name, committed):
    """Rows of the evidence for one model: on the CPU, on a GPU where there is one, and by the slow loops."""
    started = time.perf_counter()
    model, *batches = build(name)
    fixed = name in reference_models.NAMES
    if committed is None:
        return [
            plain_row("reference_D3", name, "failed", "no value of this model is committed; run `nox -s reference`")
        ]
    key = key_of(name, model, *batches)
    if other := [part for part in key if key[part] != committed["key"][part]]:
        said = f"its {' and '.join(other)} are not those of the committed values"
        return [plain_row("reference_D3", name, "failed" if fixed else "not run", said)]
    work = [("reference_D3", name, lambda: measure(model, *batches), "single", SINGLE)]
    if fixed:
        work += [
            ("reference_D3", f"{name}, beside float64", lambda: measure(model, *batches), "exact", SINGLE),
            ("reference_float64", name, lambda: measure_slowly(model, *batches), "exact", EXACT),
        ]
    if fixed and torch.cuda.is_available():
        work.append(("reference_D3", f"{name} on a GPU", lambda: measure(model.to("cuda"), *batches), "single", SINGLE))
    return [
        compared_row(check, label, run(), committed[kind], bound, started) for check, label, run, kind, bound in work
    ]


def compared_row(check, name, found, committed, bound, started):
    """A row of the evidence from a comparison."""
    measured = compare(found, committed, bound).measurement(bound)
    status, said = ("passed", "") if measured.passed else ("failed", "the values differ from the committed ones")
    seconds = time.perf_counter() - started
    return suite.result_row(
        checks.CheckResult(check, name, status, measured.error, bound, measured.compared, seconds, said)
    )


def plain_row(check, name, status, reason):
    """A row without a measurement."""
    return suite.result_row(checks.CheckResult(check, name, status, None, None, 0, 0.0, reason))


def differences(then, now, prefix=""):
    """Say what differs between two environment records."""
    said = []
    for name in sorted(then.keys() | now.keys()):
        one, two = then.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            said += differences(one, two, f"{name} ")
        elif one != two and name not in ("threads", "omp_num_threads", "qkov"):
            said.append(f"{prefix}{name}: {one} there, {two} here")
    return said


def require_clean(root=ROOT):
    """Return the commit that is checked out.

    Raises:
        RuntimeError: With changes, untracked files included, or outside a repository.
    """
    head, changes = (
        subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
    )
    if head.returncode or changes.returncode:
        raise RuntimeError(
            f"{root} is not a git checkout with a commit; reference values name the commit that made them."
        )
    if changes.stdout.strip():
        raise RuntimeError(
            "the checkout has changes; commit or remove them first, as reference values name the commit that made them:\n"
            + changes.stdout.rstrip()
        )
    return head.stdout.strip()


def rewrite(commit, path=PATH):
    """Measure everything again and write it, whole or not at all."""
    document = {"format": FORMAT, "commit": commit, "environment": reproducibility.environment_record(), "models": {}}
    for name in (*reference_models.NAMES, *TRAINED):
        model, *batches = build(name)
        found = {"key": key_of(name, model, *batches), "single": measure(model, *batches)}
        if name in reference_models.NAMES:
            found["exact"] = measure_slowly(model, *batches)
        document["models"][name] = found
    decisions_evidence.make_files(path.parent)
    write(path, document)
    write(path.parent / decisions_evidence.EXPECTED.name, decisions.decide(path.parent))


def write(path, document):
    """Write JSON: a line for each list of numbers, floats as the shortest decimals that give them back."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(written(document) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def written(value, indent=0):
    """Write nested dictionaries over lines, and everything else on one."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False)
    pad = " " * (indent + 1)
    lines = [f"{pad}{json.dumps(name)}: {written(item, indent + 1)}" for name, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


def main(arguments=None, root=ROOT):
    """Rewrite the committed values; 0, or 1 if the checkout has changes or is none."""
    argparse.ArgumentParser(prog="python -m validation.reference_values", description=main.__doc__).parse_args(
        arguments
    )
    try:
        commit = require_clean(root)
    except RuntimeError as error:
        print(f"reference values: {error}", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    rewrite(commit, root / PATH.relative_to(ROOT))
    print(
        f"{PATH.relative_to(ROOT)} and {decisions_evidence.EXPECTED.relative_to(ROOT)} hold the values of commit {commit[:12]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
