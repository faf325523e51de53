"""README's picture is drawn from scores of real text, and says which."""

import torch
import transformers

from reports import picture
from validation import tasks, trained


def test_picture_shows_the_tasks_it_was_drawn_from(monkeypatch, tmp_path, capsys):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    tiny = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=tasks.VOCAB_SIZE, **sizes))
    path = tmp_path / "book" / "_static" / "heatmap.svg"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(trained, "load_model", lambda family: tiny)
    monkeypatch.setattr(picture, "PICTURE", path)
    monkeypatch.setattr(picture, "NUM_SAMPLES", 10)
    found = picture.score_tasks()
    assert found.attributes["fisher_pool"] == "pooled"
    assert all(":" in sample_id for sample_id in found.sample_a + found.sample_b)
    picture.main()
    assert path.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert "book/_static/heatmap.svg" in capsys.readouterr().out
