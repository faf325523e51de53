"""The code that pages of the book print runs, on a tiny model; notebooks and the page of importance have their own tests."""

import re
from pathlib import Path

import pytest
import torch
import transformers

import qkov

BOOK = Path(__file__).resolve().parent.parent / "book"


@pytest.fixture(scope="module")
def collector():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **sizes, **heads))
    held = qkov.FisherCollector()
    for task in ("math", "code", "chat", "a", "b"):
        held.collect_fisher(model, {"input_ids": torch.randint(0, 50, (20, 12))}, task, progress=False)
    return held


@pytest.mark.parametrize(("page", "made"), [("conflicts", "conflicts.safetensors"), ("prediction", None)])
@pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")  # 20 samples are few
def test_code_of_a_page_runs_as_printed(page, made, collector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (BOOK / f"{page}.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names = {"qkov": qkov, "collector": collector}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), names)
    if made:
        assert qkov.load_conflicts(made) == names["found"]
    else:
        assert names["pairs"].arrays["Q"].shape == (20, 20, 1, 4)
        assert names["change"].at(1e-3).step_size == 1e-3


def test_code_of_the_answers_runs_as_printed(collector, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (BOOK / "faq.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=50, num_labels=3, **sizes)
    batch = {"input_ids": torch.randint(0, 50, (6, 12))}
    heads = {"num_key_value_heads": 2}
    names = {
        "qkov": qkov,
        "torch": torch,
        "batch": batch,
        "labelled": {**batch, "labels": torch.arange(6) % 3},
        "model": transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **sizes, **heads)),
        "encoder": transformers.BertForSequenceClassification(config),
        "heatmap": qkov.QKOVInterferenceMetric(collector.config, collector).compute_heatmap("math", "code"),
        "collector": qkov.FisherCollector(),
    }
    for block in blocks:
        exec(compile(block, "faq.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[0].startswith("unsigned: never negative")
    tokens = qkov.losses.causal_lm_loss(names["model"], {**batch, "labels": names["labels"]})[1]
    assert tokens.tolist() == [8] * 6
    assert names["collector"].sample_ids("answers") == tuple(range(6))
    assert names["own"].sample_ids("sentiment") == tuple(range(6))
