"""`python -m qkov inspect`: what it says about heads, what belongs to none, errors and exit statuses."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention
from typer.testing import CliRunner

import qkov
from qkov import cli, drawn_batches, inspection, model_loading
from qkov.checks import CheckResult
from qkov.geometry import AttentionLayout, Projection
from qkov.packings import split_layout

from .builders import build_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models as a user has them: folders of weights and configuration."""
    root = tmp_path_factory.mktemp("models")
    for family in ("llama", "gpt2", "bert"):
        build_model(family, dtype=torch.float32).save_pretrained(root / family)
    vit = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8, image_size=8, patch_size=4
    )
    transformers.ViTModel(vit).save_pretrained(root / "vit")
    ends = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    bart = transformers.BartConfig(
        vocab_size=30, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=40, **ends
    )
    transformers.BartModel(bart).save_pretrained(root / "bart")
    mamba = transformers.MambaConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, state_size=2)
    transformers.MambaForCausalLM(mamba).save_pretrained(root / "mamba")
    (root / "nothing").mkdir()  # not "empty": some versions read a family, mpt, out of a name
    (root / "damaged").mkdir()
    (root / "damaged" / "config.json").write_bytes((root / "llama" / "config.json").read_bytes())
    (root / "damaged" / "model.safetensors").write_bytes(b"\x10" * 64)
    return root


def inspect(*arguments):
    return CliRunner().invoke(cli.app, ["inspect", *map(str, arguments)])


def answer(*arguments):
    result = inspect(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def words(text):
    """Lines as tuples of words, so that tests do not hang on the width of columns."""
    return [tuple(line.split()) for line in text.splitlines()]


def test_table_places_split_heads_by_rows_and_output_by_columns(folders):
    result = inspect(folders / "llama")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = words(result.stdout)
    assert ("layers", "0-1:", "model.layers.*.self_attn") in lines
    assert ("Q", "6", "rows", "0:4", "20:24", "4", "yes", "q_proj.weight") in lines
    assert ("K", "2", "rows", "0:4", "4:8", "4", "yes", "k_proj.weight") in lines
    assert ("O", "6", "columns", "0:4", "20:24", "4", "no", "o_proj.weight") in lines
    assert "2 kv heads (each for 3 query heads)" in result.stdout
    assert "  placed by the general rule" in result.stdout.splitlines()
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_table_places_fused_heads_of_conv1d_by_columns(folders):
    lines = words(inspect(folders / "gpt2").stdout)
    assert ("V", "6", "columns", "48:52", "68:72", "4", "yes", "c_attn.weight") in lines
    assert ("O", "6", "rows", "0:4", "20:24", "4", "no", "c_proj.weight") in lines
    assert ("placed", "by", "a", "layout", "of", "its", "class") in lines


def test_layers_with_different_sizes_are_shown_apart():
    model = build_model("qwen2", layers=3)
    layers = inspection.describe_model(model, qkov.QKOVConfig.from_model(model))["layers"]
    layers[1]["hidden_size"] += 1
    table = inspection.layout_table(layers)
    assert [line for line in table.splitlines() if line.startswith("layer")] == [
        f"layer {index}: model.layers.{index}.self_attn" for index in range(3)
    ]


def test_layer_and_every_head_narrow_and_widen_the_table(folders):
    result = inspect(folders / "llama", "--layer", 1, "--every-head")
    assert "model.layers.1.self_attn.o_proj.weight[:, 16:20]" in result.stdout
    assert "model.layers.0" not in result.stdout
    assert "1 layer with attention, 6 query heads, 2 kv heads" in result.stdout


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_json_holds_the_slices_that_the_indexer_gives(folders, family):
    found = answer(folders / family)
    model = model_loading.load_model(str(folders / family))
    assert found["class"] == type(model).__name__
    parts = {
        (layout["layer"], block["block"], unit): (block["param_name"], block["head_axis"], start, block["width"])
        for layout in found["layers"]
        for block in layout["projections"]
        for unit, start in enumerate(block["starts"])
    }
    expected = {}
    for layer, block, unit, part in qkov.QKOVIndexer(qkov.QKOVConfig.from_model(model)):
        axis = 0 if part.col_slice is None else 1
        start, stop = part.row_slice or part.col_slice
        expected[layer, block, unit] = (part.param_name, axis, start, stop - start)
    assert parts == expected


def test_what_no_head_owns_is_listed_and_counted(folders):
    found = answer(folders / "bert")
    names = [entry["param_name"] for entry in found["not_covered"] if entry["layer"] == 0]
    prefix = "encoder.layer.0.attention.output"
    assert names == [f"{prefix}.dense.bias", f"{prefix}.LayerNorm.weight", f"{prefix}.LayerNorm.bias"]
    assert found["not_covered"][0]["reason"] == "added after the heads are summed"
    summary = found["summary"]
    missing = sum(entry["size"] for entry in found["not_covered"])
    assert summary["num_parameters_in_heads"] + missing == summary["num_parameters_in_attention"]
    model = model_loading.load_model(str(folders / "bert"))
    indexer = qkov.QKOVIndexer(qkov.QKOVConfig.from_model(model))
    owned = 0
    for *_, part in indexer:
        owned += model.get_parameter(part.param_name)[part.index].numel()
        owned += model.get_parameter(part.bias_name)[part.bias_index].numel() if part.bias_name else 0
    assert summary["num_parameters_in_heads"] == owned


def test_rows_between_heads_are_listed_as_not_covered():
    """A gated query: half of the rows of the weight are a gate, which is no part of a head's query."""
    model = nn.ModuleDict({"q": nn.Linear(6, 8), "k": nn.Linear(6, 4), "v": nn.Linear(6, 4), "o": nn.Linear(4, 6)})
    holder = nn.ModuleDict({"attention": model})
    starts = {"Q": (0, 4), "K": (0, 2), "V": (0, 2), "O": (0, 2)}
    blocks = [
        Projection(
            block,
            f"attention.{block.lower()}",
            f"attention.{block.lower()}.weight",
            None if block == "O" else f"attention.{block.lower()}.bias",
            tuple(model[block.lower()].weight.shape),
            int(block == "O"),
            "input" if block == "O" else "output",
            starts[block],
            2,
        )
        for block in "QKVO"
    ]
    layout = AttentionLayout(0, "attention", "split", 2, 2, 2, 2, 6, tuple(blocks))
    rest = inspection.not_covered(holder, layout)
    assert [(entry["param_name"], entry["part"], entry["size"]) for entry in rest] == [
        ("attention.q.weight", (2, 4), 12),
        ("attention.q.weight", (6, 8), 12),
        ("attention.q.bias", (2, 4), 2),
        ("attention.q.bias", (6, 8), 2),
        ("attention.o.bias", None, 6),
    ]
    assert ("rows", "6:8", "12", "q.weight") in [line[:4] for line in words(inspection.not_covered_table(rest))]


def test_nothing_uncovered_is_said():
    model = build_model("phi3")
    assert inspection.describe_model(model, qkov.QKOVConfig.from_model(model))["not_covered"] == []
    assert "nothing" in inspection.not_covered_table([])


def test_config_only_needs_no_weights_and_says_so(folders, tmp_path):
    (tmp_path / "config.json").write_bytes((folders / "llama" / "config.json").read_bytes())
    result = inspect(tmp_path, "--config-only")
    assert "LlamaForCausalLM: random weights, built from the configuration" in result.stdout
    assert answer(tmp_path, "--config-only")["layers"] == answer(folders / "llama")["layers"]
    assert inspect(tmp_path).exit_code == 4


@pytest.mark.parametrize("family", ["llama", "bert", "vit"])
def test_prove_tells_each_experiment(folders, family):
    result = inspect(folders / family, "--prove")
    assert result.exit_code == 0, result.output
    told = [line[1] for line in words(result.stdout) if line[:1] == ("passed",)]
    assert told
    assert f"layout proven: {len(told)} experiments passed" in result.stdout
    proof = answer(folders / family, "--prove")["proof"]
    assert [entry["check"] for entry in proof if entry["status"] == "passed"] == told


def test_prove_refuses_a_wrong_layout(folders, monkeypatch):
    class SwappedAttention(LlamaAttention):
        """Registered below with keys and values exchanged."""

    model = model_loading.load_model(str(folders / "llama"))
    for layer in model.model.layers:
        layer.self_attn.__class__ = SwappedAttention
    qkov.register_layout(SwappedAttention, partial(split_layout, key="v_proj", value="k_proj"))
    monkeypatch.setattr(model_loading, "load_model", lambda *arguments, **options: model)
    assert inspect("wrong").exit_code == 0
    result = inspect("wrong", "--prove")
    assert result.exit_code == 4
    assert "not what the model computes" in result.stderr
    assert "proven" not in result.stdout


def test_no_experiment_run_is_not_a_proof(folders, monkeypatch):
    nothing = CheckResult("head_rows", "model", "not run", None, None, 0, 0.0, "no reason")
    monkeypatch.setattr("qkov.checks.prove_layout", lambda *arguments, **options: [nothing])
    result = inspect(folders / "llama", "--prove")
    assert result.exit_code == 4
    assert "layout not proven: 0 experiments passed, 1 not run" in result.stdout
    assert "not proven" in result.stderr


def test_kind_of_attention_is_chosen_where_there_are_several(folders):
    undecided = inspect(folders / "bart")
    assert undecided.exit_code == 4
    assert "'decoder.layers.*.encoder_attn'" in undecided.stderr
    result = inspect(folders / "bart", "--attention", "decoder.layers.*.encoder_attn", "--prove")
    assert result.exit_code == 0, result.output
    assert "layers 0-1: decoder.layers.*.encoder_attn" in result.stdout
    assert "layout proven" in result.stdout
    assert inspect(folders / "bart", "--attention", "decoder").exit_code == 4


def test_prove_asks_for_a_batch_where_the_model_reads_neither_tokens_nor_images(folders, monkeypatch):
    model = model_loading.load_model(str(folders / "bert"))
    monkeypatch.setattr(type(model), "main_input_name", "input_values")
    with pytest.raises(qkov.errors.LayoutError, match=r"input_values.*prove_layout"):
        drawn_batches.random_batch(model, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing"], 4, "There is no folder"),
        (["nothing"], 4, "cannot be loaded"),
        (["damaged"], 4, "cannot be loaded"),
        (["mamba"], 4, "attention"),
        (["llama", "--layer", "7"], 2, "valid layers are 0-1"),
        (["llama", "--device", "abacus"], 2, "'abacus' cannot be used"),
        (["llama", "--layer", "first"], 2, "'--layer'"),
        (["llama", "--format", "poem"], 2, "'poem'"),
        ([], 2, "MODEL"),
    ],
    ids=lambda value: "-".join(value) or "nothing" if isinstance(value, list) else None,
)
def test_error_is_one_message_with_its_status(folders, arguments, status, message):
    result = inspect(*([folders / arguments[0], *arguments[1:]] if arguments else []))
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_traceback_is_shown_when_asked(folders):
    result = inspect(folders / "nothing", "--traceback")
    assert result.exit_code == 4
    assert "Traceback" in result.stderr


def test_other_errors_of_ours_count_as_data_and_interruption_has_its_status(monkeypatch):
    for error, status in (
        (qkov.errors.BatchError("no"), 3),
        (OSError("disk"), 3),
        (KeyboardInterrupt(), 130),
    ):

        def fail(*arguments, raised=error, **options):
            raise raised

        monkeypatch.setattr(model_loading, "load_model", fail)
        assert inspect("any").exit_code == status


def test_unknown_name_on_the_hub_is_no_traceback(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("offline\nand\x1b[31m red")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    result = inspect("nobody/nothing")
    assert result.exit_code == 4
    assert "\x1b" not in result.stderr
    assert "\\x1b[31m red" in result.stderr


def test_names_are_plain_text(monkeypatch):
    """Neither markup nor escape sequences of a model's own names reach the terminal."""
    model = build_model("llama", layers=1)
    holder = nn.ModuleDict({"[red]\x1b[2J\u202e": model})
    holder.get_output_embeddings = model.get_output_embeddings
    monkeypatch.setattr(model_loading, "load_model", lambda *arguments, **options: holder)
    result = inspect("any", "--layer", 0)
    assert "layer 0: [red]\\x1b[2J\\u202e.model.layers.0.self_attn" in result.stdout
    assert "\x1b" not in result.stdout


def test_causal_class_is_chosen_by_what_the_checkpoint_was_saved_as():
    causal, plain = transformers.AutoModelForCausalLM, transformers.AutoModel
    for config, expected in (
        (transformers.BertConfig(architectures=["BertForMaskedLM"]), plain),
        (transformers.BertConfig(architectures=["BertLMHeadModel"]), causal),
        (transformers.LlamaConfig(architectures=["LlamaForSequenceClassification"]), plain),
        (transformers.LlamaConfig(), causal),
        (transformers.ViTConfig(), plain),
    ):
        assert model_loading._auto_class(config) is expected, config.architectures


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["plan", "--help"]], ids=" ".join)
def test_help_imports_no_torch(arguments):
    command = (
        "import sys, qkov.cli\n"
        f"sys.argv[1:] = {arguments}\n"
        "try:\n    qkov.cli.main()\n"
        "finally:\n    print([name for name in ('torch', 'transformers', 'numpy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert " ".join(arguments[:-1]) in done.stdout
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_module_runs_as_a_program(folders):
    done = subprocess.run(
        [sys.executable, "-m", "qkov", "inspect", str(folders / "llama")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert "LlamaForCausalLM: weights loaded" in done.stdout
    usage = subprocess.run([sys.executable, "-m", "qkov", "inspekt"], cwd=ROOT, capture_output=True, text=True)
    assert usage.returncode == 2
    assert "python -m qkov" in usage.stderr


def planned(*arguments):
    sizes = ["--samples-a", 7, "--samples-b", 5, "--tokens", 9, "--timing", "skip"]
    return CliRunner().invoke(cli.app, ["plan", *map(str, [*arguments, *sizes])])


def test_plan_needs_a_configuration_alone(folders, tmp_path):
    (tmp_path / "config.json").write_bytes((folders / "llama" / "config.json").read_bytes())
    shown = planned(tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "7 + 5 samples of 9 tokens; 2 layers, 32 slices" in shown.stdout
    said = json.loads(planned(tmp_path, "--format", "json", "--store", "--dtype", "bfloat16", "--layer", 1).stdout)
    assert (said["keep"], said["dtype"], said["num_layers"], said["seconds"]) == ("disk", "bfloat16", 1, None)
    real = json.loads(planned(folders / "llama", "--format", "json").stdout)
    assert real["num_parameters"] == said["num_parameters"]
    assert real["factor_bytes"] == 2 * said["factor_bytes"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing"], 4, "There is no folder"),
        (["nothing"], 4, "cannot be loaded"),
        (["mamba"], 4, "attention"),
        (["llama", "--samples-a", "0"], 2, "samples_a is 0"),
        (["gpt2", "--tokens", "33"], 2, "holds 0 to 31"),
        (["llama", "--memory-budget", "much"], 2, "memory_budget='much'"),
        (["llama", "--memory-budget", "2MB", "--store"], 8, "a pass of a single sample"),
        (["llama", "--rate", "-1"], 2, "rate is -1"),
        (["llama", "--layer", "7"], 2, "valid layers are 0-1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_plan_ends_with_the_status_of_its_error(folders, arguments, status, message):
    sizes = {"--samples-a": "7", "--samples-b": "5", "--tokens": "9", "--timing": "skip"}
    rest = [word for pair in sizes.items() if pair[0] not in arguments for word in pair]
    found = CliRunner().invoke(cli.app, ["plan", str(folders / arguments[0]), *arguments[1:], *rest])
    assert found.exit_code == status, found.output
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
