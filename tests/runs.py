"""Runs on disk as a user has them: a tiny model with a tokenizer of bytes, task files, a configuration, results."""

import json

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import qkov
from qkov import run_config, run_folder

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
TASKS = ("math", "code", "chat")


def make_tokenizer():
    """One token for each byte, ids 0 to 255, and a token that begins and pads."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: number for number, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<s>")


def make_model(folder, *, seed=0, tokenizer=True):
    """Save a tiny Llama, and its tokenizer, in a folder."""
    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": 257, "initializer_range": 0.3}
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, architectures=["LlamaForCausalLM"])
    ).save_pretrained(folder)
    if tokenizer:
        make_tokenizer().save_pretrained(folder)
    return folder


def task_lines(task, count=8, *, clusters=True):
    """Samples of a task, short and all different; texts of two samples share a cluster."""
    words = {"math": "{0} + {1} = {2}", "code": "x{0} = f({1})", "chat": "hi {0}, bye {1}"}[task]
    lines = [{"id": f"{task[0]}{i}", "text": words.format(i, i * i + 3, i * i + i + 3)} for i in range(count)]
    return [{**one, "cluster": f"{task}-{i // 2}"} for i, one in enumerate(lines)] if clusters else lines


def write_lines(path, lines):
    """Write samples as JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return path


def make_inputs(folder, **options):
    """Make a model and three task files in a folder; returns the folder."""
    make_model(folder / "model")
    for task in TASKS:
        write_lines(folder / f"{task}.jsonl", task_lines(task, **options))
    return folder


def make_config(folder, **changes):
    """The configuration of such a folder."""
    content = {
        "model": "./model",
        "tasks": {task: f"{task}.jsonl" for task in TASKS},
        "source": "math",
        "target": "code",
        "reference": "chat",
        "statistics": {"n_permutations": 99},
    }
    return run_config.RunConfig.from_dict({**content, **changes}, folder=folder)


def make_results(folder):
    """A complete run with scores and a prediction, of random numbers in place of texts; for tests of what reads runs."""
    from tests.builders import build_batch, build_model

    make_inputs(folder)
    config, path = make_config(folder), folder / "run"
    collector = qkov.FisherCollector()
    model = build_model("llama", dtype=torch.float32)
    for number, task in enumerate(TASKS):
        batch = build_batch((5,) * 8, seed=number)
        collector.collect_fisher(model, batch, task, sample_ids=[one["id"] for one in task_lines(task)], progress=False)
    data = {
        task: {"path": config.tasks[task].path, "sha256": run_folder.file_digest(config.task_path(task))}
        for task in TASKS
    }
    record = run_folder.begin_run(path, config, {"command": "qkov run", "data": data})
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled", min_samples_for_fisher=1)
    heatmap = metric.compute_heatmap("math", "code", progress=False)
    prediction = qkov.predict_change(collector, "math", "code", progress=False)
    record = run_folder.add_result(path, record, "scores-unsigned.safetensors", heatmap)
    record = run_folder.add_result(path, record, "prediction.safetensors", prediction)
    run_folder.write_record(path, {**record, "status": "complete"})
    return path
