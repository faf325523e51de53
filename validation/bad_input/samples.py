"""Samples: without anything to predict, too long, of another tokenizer, padded, and what they may be called."""

import contextlib
import functools
import io
import tempfile
from pathlib import Path

import torch

import qkov
from qkov import errors, losses
from qkov.commands import console

from .. import families
from . import registry
from .ground import IDS, LENGTHS, build_batch, build_model, require_reference
from .registry import require

case = functools.partial(registry.case, group="Samples")
_NOTHING = {
    "error": errors.BatchError,
    "status": 3,
    "says": ("sample 's4' has no predicted token", "Remove it, or unmask"),
}


@case("every label of a sample is -100", **_NOTHING)
def all_labels_masked(ground):
    """The error names the sample; so does it for a prompt without an answer, which is the same thing."""
    batch = build_batch()
    ground.collect(batch | {"labels": batch["input_ids"].clone().index_fill(0, torch.tensor([1]), losses.IGNORED)})


@case("a sample of one token", **_NOTHING)
def one_token(ground):
    """Nothing is predicted before the second token; the error names the sample."""
    ground.collect(build_batch((5, 1)))


@case("an empty text beside others, all padding", **_NOTHING)
def all_padding(ground):
    """The error names the sample."""
    ground.collect(build_batch((5, 0)))


@case(
    "an empty text alone",
    error=errors.BatchError,
    status=3,
    says=("sample 's3' has no token", "empty text", "Remove it"),
)
def empty_text(ground):
    """The error names the sample."""
    ground.collect({"input_ids": torch.zeros(1, 0, dtype=torch.long)})


@case(
    "a token that the model does not have, as another tokenizer gives",
    error=errors.BatchError,
    status=3,
    says=("sample 's4' has a token", "0 to 22", "another model", "own tokenizer"),
)
def token_out_of_range(ground):
    """Refused by name before an accelerator sees it."""
    batch = build_batch()
    batch["input_ids"][1, 2] = families.VOCAB_SIZE
    ground.collect(batch)


@case(
    "a negative token",
    error=errors.BatchError,
    status=3,
    says=("sample 's3' has a token", "range from -1", "own tokenizer"),
)
def negative_token(ground):
    """Refused by name."""
    batch = build_batch()
    batch["input_ids"][0, 0] = -1
    ground.collect(batch)


@case(
    "the tokens of another tokenizer, all of which the model has, under known ids",
    error=errors.SampleIdError,
    status=3,
    says=(
        "task 'math' already holds sample 's0' with another input",
        "another id, or collect into a new FisherCollector",
    ),
)
def other_tokenizer(ground):
    """Not skipped as known: the tokens are part of a sample's digest. Under new ids nothing can tell it."""
    batch = build_batch(LENGTHS["math"], seed=0)
    batch["input_ids"][:, 1:] = (batch["input_ids"][:, 1:] + 1) % families.VOCAB_SIZE
    ground.collect(batch, sample_ids=IDS)


@case(
    "tokens that are no integers",
    error=errors.BatchError,
    status=3,
    says=("input_ids are of torch.float32", "expected integers", "torch.int64"),
)
def tokens_of_floats(ground):
    """Refused before a pass."""
    batch = build_batch()
    ground.collect(batch | {"input_ids": batch["input_ids"].float()})


@case(
    "a label that the model does not predict",
    error=errors.BatchError,
    status=3,
    says=("labels range from 2 to 23", "the model predicts 0 to 22", "number 1 of its pass", "Use -100"),
)
def label_out_of_range(ground):
    """Refused with the range and the place in the pass."""
    labels = torch.full_like(build_batch()["input_ids"], 2)
    labels[1, 2] = families.VOCAB_SIZE
    ground.collect(build_batch() | {"labels": labels})


@case(
    "a sample longer than a table of positions",
    error=errors.BatchError,
    status=3,
    says=("sample 1 reaches position 32", "'transformer.wpe' holds 0 to 31", "Cut samples to 32 tokens"),
)
def too_long(ground):
    """The error names sample and table before an accelerator sees it; models without a table have no such end."""
    ground.collect_anew(build_model("gpt2"), build_batch((5, 33)))


@case("samples of different lengths, padded on either side")
def padding_sides(ground):
    """Gradients are those of each sample alone without padding, and both sides are known as the same input."""
    for name, options in {"left": {"width": 9}, "right": {"width": 8}}.items():
        batch = build_batch((5, 2, 7), padding=name, **options)
        collector = ground.collect_anew(ground.model, batch)
        require_reference(collector, "math", (0, 1, 2), ground.model, batch)
        digests = [one.digest for one in collector.samples("math")]
        other = ground.collect_anew(ground.model, build_batch((5, 2, 7)))
        require(digests == [one.digest for one in other.samples("math")], f"padding on the {name} changes digests")


@case("a real token with the number of the padding token")
def pad_id_as_token(ground):
    """It counts: padding is what the attention mask says, never a token id."""
    batch = build_batch((5, 4))
    batch["input_ids"][0, 2] = families.PAD_ID
    batch["input_ids"][1, 3] = families.PAD_ID
    collector = ground.collect_anew(ground.model, batch)
    require_reference(collector, "math", (0, 1), ground.model, batch)
    require([one.num_tokens for one in collector.samples("math")] == [4, 3], "a real token was taken for padding")


@case("a last pass with fewer samples than the others")
def last_partial_batch(ground):
    """Every sample is collected once, with the gradient of the reference."""
    batch = build_batch((5, 4, 6, 3, 5))
    collector = ground.collect_anew(ground.model, batch, micro_batch=2)
    require(collector.sample_ids("math") == (0, 1, 2, 3, 4), "samples are missing or repeated")
    require_reference(collector, "math", range(5), ground.model, batch)


@case(
    "a task of one sample",
    warning=errors.FewSamplesWarning,
    says=("'one'", "rests on 1 samples", "collect more"),
    adds=True,
)
def one_sample(ground):
    """Scored, with a warning; against itself the mean over A is the gradient's mean size, as everywhere."""
    ground.collect(build_batch((5,)), "one")
    metric = ground.metric(min_samples_for_fisher=10)
    heatmap = metric.compute_heatmap("one", "one", progress=False)
    require(heatmap["Q"]["scores"].shape == (1, 1, 2, 6), f"scores have shape {heatmap['Q']['scores'].shape}")
    norms = metric.compute_gradient_norms("one")
    for block in "QKVO":
        error = abs(heatmap.arrays[block][0] - norms[block]).max() / norms[block].max()
        require(error < 1e-6, f"block {block}: off by {error:.1e}")


@case(
    "task B without samples",
    warning=errors.EmptyTaskWarning,
    says=("task B, 'nothing', has no samples", "Collect it, or correct its name", "'math', 'code'"),
    adds=True,
)
def empty_task_b(ground):
    """Scores of shape (n_a, 0, layers, heads), averages of 0, valid=False, a warning."""
    ground.collect([], "nothing", sample_ids=None)
    heatmap = ground.metric().compute_heatmap("math", "nothing", progress=False)
    for block in "QKVO":
        shape = heatmap[block]["scores"].shape
        require(shape == (3, 0, 2, 6), f"scores of block {block} have shape {shape}")
        average = heatmap[block]["layer_head_avg"]
        require(average.shape == (2, 6) and not average.any(), f"averages of block {block} are not 0")
    require(heatmap.attributes["valid"] is False, "valid is not False")


@case(
    "task A without samples",
    error=errors.EmptyTaskError,
    status=3,
    says=("task A, 'nothing', has no samples", "Collect it first"),
    adds=True,
)
def empty_task_a(ground):
    """Refused: its Fisher is not defined."""
    ground.collect([], "nothing", sample_ids=None)
    ground.metric().compute_heatmap("nothing", "code", progress=False)


@case(
    "a test of a task without samples",
    error=errors.EmptyTaskError,
    status=3,
    says=("task 'nothing' holds no samples", "Collect it first"),
    adds=True,
)
def empty_task_tested(ground):
    """Refused: there is nothing to test."""
    ground.collect([], "nothing", sample_ids=None)
    qkov.QKOVStatistics(n_permutations=19).test_heatmap(
        ground.collector, "math", "nothing", clusters="iid", seed=0, progress=False
    )


@case(
    "a prediction for a task without samples",
    error=errors.EmptyTaskError,
    status=3,
    says=("task 'nothing' has no samples", "Collect it first"),
    adds=True,
)
def empty_task_predicted(ground):
    """Refused: nothing can be predicted."""
    ground.collect([], "nothing", sample_ids=None)
    qkov.predict_change(ground.collector, "math", "nothing")


@case(
    "conflicts with a task without samples",
    error=errors.EmptyTaskError,
    status=3,
    says=("task 'nothing' holds no samples", "Collect it first"),
    adds=True,
)
def empty_task_compared(ground):
    """Refused: there is nothing to compare."""
    ground.collect([], "nothing", sample_ids=None)
    qkov.detect_conflicts(ground.collector, "math", "nothing")


@case(
    "one id twice in a call",
    error=errors.SampleIdError,
    status=3,
    says=("task 'math'", "'s7'", "occur more than once", "Give every sample an id of its own"),
)
def duplicate_ids(ground):
    """The error names task and id."""
    ground.collect(build_batch(), sample_ids=["s7", "s7"])


@case(
    "ids of two types in a task",
    error=errors.SampleIdError,
    status=3,
    says=("task 'math'", "ids of type int, str", "expected all int or all str"),
)
def mixed_ids(ground):
    """Refused: 1 and "1" would be mixed up."""
    ground.collect(build_batch(), sample_ids=[3, 4])


@case(
    "fewer ids than samples",
    error=errors.SampleIdError,
    status=3,
    says=("task 'math'", "1 sample_ids for 2 samples", "expected one each"),
)
def too_few_ids(ground):
    """Refused before a pass."""
    ground.collect(build_batch(), sample_ids=["s3"])


@case("ids that are huge integers")
def huge_ids(ground):
    """Kept exactly, in the result and in its file."""
    ids = (10**30, -(2**63) - 1)
    require(_ids_in_a_file(ground, ids) == ids, "ids are not what they were")


@case("ids that are any strings: HTML, Markdown, LaTeX, a formula of a spreadsheet, commands of a terminal, a path")
def odd_string_ids(ground):
    """Kept exactly, in the result and in its file; nothing of them is a file name, and messages show them as literals."""
    ids = (
        "<script>alert(1)</script>",
        "| **b** | `c` |",
        r"$\input{x}$",
        '=cmd|"/C x"!A0',
        "\x1b[31mred\x07",
        "../../up",
        "",
    )
    require(_ids_in_a_file(ground, ids) == ids, "ids are not what they were")


@case(
    "a sample id with commands of a terminal, in an error",
    error=errors.BatchError,
    status=3,
    says=(r"'\x1b[2J\x07'", "no predicted token", "Remove it"),
)
def terminal_commands_in_an_error(ground):
    """The message shows them as escapes, which no terminal obeys."""
    ground.collect(build_batch((1,)), sample_ids=["\x1b[2J\x07"])


@case("sample ids that are HTML, in a table of a notebook")
def html_in_a_table(ground):
    """Shown as text: no element of theirs is in the page."""
    ids = ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "&amp;")
    collector = ground.collect_anew(ground.model, build_batch((4, 5, 3)), sample_ids=ids)
    heatmap = ground.metric(collector).compute_heatmap("math", "math", progress=False)
    shown = qkov.describe_top_pairs(heatmap, collector)._repr_html_()
    require("&lt;script&gt;alert(1)&lt;/script&gt;" in shown, "the ids are not shown")
    require("<script" not in shown and "<img" not in shown, "an id became an element of the page")


@case("names with commands of a terminal, printed by the command line")
def terminal_commands_printed(ground):
    """Printed as escapes, which no terminal obeys."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        console.echo("layer \x1b[2J\x07 of \u202e")
    require(said.getvalue() == "layer \\x1b[2J\\x07 of \\u202e\n", f"printed as {said.getvalue()!r}")


def _ids_in_a_file(ground, ids):
    batch = build_batch((4,) * len(ids))
    collector = ground.collect_anew(ground.model, batch, sample_ids=ids)
    heatmap = ground.metric(collector).compute_heatmap("math", "math", progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heatmap.safetensors"
        heatmap.save(path)
        loaded = qkov.load_heatmap(path)
        require([one.name for one in Path(folder).rglob("*")] == [path.name], "other files were written")
    require(collector.sample_ids("math") == tuple(ids) == loaded.sample_b, "ids have changed")
    require(tuple(loaded.data["sample_a"].values.tolist()) == tuple(ids), "coordinates have changed")
    return loaded.sample_a
