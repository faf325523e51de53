"""Models with several kinds of attention: encoder, decoder and cross-attention are named apart and looked at one at a time."""

import pytest
import torch
import transformers

import qkov
from qkov import locate
from qkov.errors import LayoutError

KINDS = (
    "model.encoder.layers.*.self_attn",
    "model.decoder.layers.*.self_attn",
    "model.decoder.layers.*.encoder_attn",
)
VOCABULARY = 30


@pytest.fixture(autouse=True)
def bart_is_known(monkeypatch):
    monkeypatch.setitem(locate._FINDERS, "transformers.models.bart.modeling_bart.BartAttention", bart_layout)


def bart_layout(module, name, config):
    # The configuration states the encoder's heads; a decoder may have others.
    heads = module.num_heads
    return locate.split_layout(module, name, config, output="out_proj", num_heads=heads, num_kv_heads=heads)


def build_model():
    sizes = {"d_model": 24, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 16}
    heads = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 6, "decoder_attention_heads": 4}
    config = transformers.BartConfig(vocab_size=VOCABULARY, **sizes, **heads)
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def translation_loss(model, batch):
    """Summed negative log-likelihood of the target given the source: sources and targets differ in length."""
    target = batch["target"]
    logits = model(
        input_ids=batch["source"], attention_mask=batch["source_mask"], decoder_input_ids=target[:, :-1]
    ).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target[:, 1:], reduction="none")
    return losses.sum(1), torch.full((len(losses),), losses.shape[1])


def build_batch(count, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(count, 9, dtype=torch.long)
    mask[0, 6:] = 0
    source = torch.randint(3, VOCABULARY, (count, 9), generator=generator)
    return {
        "source": source,
        "source_mask": mask,
        "target": torch.randint(3, VOCABULARY, (count, 6), generator=generator),
    }


def test_without_a_choice_the_kinds_are_named():
    with pytest.raises(LayoutError, match="3 kinds of attention") as caught:
        qkov.QKOVConfig.from_model(build_model())
    for kind in KINDS:
        assert repr(kind) in str(caught.value)


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(LayoutError, match=r"found 'model\.encoder"):
        qkov.QKOVConfig.from_model(build_model(), attention="encoder")


@pytest.mark.parametrize(("kind", "heads"), list(zip(KINDS, (6, 4, 4), strict=True)))
def test_config_is_of_the_chosen_kind(kind, heads):
    config = qkov.QKOVConfig.from_model(build_model(), attention=kind)
    assert config.num_heads == heads
    assert config.layer_indices == (0, 1)
    assert [layout.module_name for layout in config.layers] == [kind.replace("*", str(layer)) for layer in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_laws_hold_for_every_kind(kind):
    results = qkov.check_model(
        build_model(), build_batch(4, 1), build_batch(3, 2), loss_fn=translation_loss, attention=kind, progress=False
    )
    assert [str(result) for result in results if result.status == "failed"] == []
    not_run = {
        "padding",
        "token_sum",
        "gqa_twin",
        "sampled_labels",
    }  # the last: a loss of the user's own draws no labels
    assert {result.check for result in results if result.status == "not run"} == not_run


@pytest.mark.parametrize("kind", KINDS)
def test_layout_of_every_kind_is_proved(kind):
    results = qkov.prove_layout(
        build_model(), build_batch(3, 1), loss_fn=translation_loss, attention=kind, progress=False
    )
    assert {result.status for result in results} == {"passed"}


def test_cross_attention_keeps_tokens_of_both_sides():
    collector = qkov.FisherCollector(attention=KINDS[2])
    collector.collect_fisher(build_model(), build_batch(2, 1), "a", loss_fn=translation_loss, progress=False)
    factors = collector.sample("a", 0).factors
    tokens = {name.rpartition(".")[2]: len(pair.deltas) for name, pair in factors.items() if ".0." in name}
    assert tokens == {"q_proj": 5, "k_proj": 6, "v_proj": 6, "out_proj": 5}


def test_other_kinds_need_not_be_known(monkeypatch):
    class OtherAttention(torch.nn.Module):
        pass

    model = build_model()
    model.model.extra = OtherAttention()
    with pytest.raises(LayoutError, match="looks like attention"):
        qkov.QKOVConfig.from_model(model)
    assert qkov.QKOVConfig.from_model(model, attention=KINDS[0]).num_heads == 6
