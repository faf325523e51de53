"""Encoder-decoders as data: three kinds of attention each, which are looked at one at a time.

Encoder and decoder differ in their number of heads where the family allows it: the configuration states one of them.
"""

import dataclasses

from .found_architectures import MOE
from .tiny_models import TWO_PARTS, models

_BART = TWO_PARTS | {"decoder_start_token_id": 1}
_T5 = {
    "d_model": 30,
    "num_heads": 6,
    "d_kv": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "d_ff": 7,
    "decoder_start_token_id": 1,
    "num_sparse_encoder_layers": 0,
    "num_sparse_decoder_layers": 0,
}


def _entries():
    """Pairs of an architecture and the number of heads of each kind of attention."""
    kinds = {
        "encoder.layers.*.self_attn": 6,
        "decoder.layers.*.self_attn": 4,
        "decoder.layers.*.encoder_attn": 4,
    }
    for one in models(
        {},
        "bart:BartModel mbart:MBartModel plbart:PLBartModel blenderbot:BlenderbotModel "
        "blenderbot_small:BlenderbotSmallModel m2m_100:M2M100Model marian:MarianModel mvp:MvpModel "
        "pegasus:PegasusModel",
        options=_BART,
        inputs="ids+ids",
    ):
        yield one, kinds
    for one in models(
        {}, "whisper:WhisperModel", options=_BART | {"num_mel_bins": 8, "max_source_positions": 6}, inputs="mel+ids"
    ):
        yield one, kinds
    for one in models({}, "nllb_moe:NllbMoeModel", options=MOE | _BART, inputs="ids+ids"):
        yield one, {kind.replace("encoder_attn", "cross_attention"): heads for kind, heads in kinds.items()}
    for one in models(
        {},
        "t5:T5Model mt5:MT5Model umt5:UMT5Model switch_transformers:SwitchTransformersModel",
        options=MOE | _T5,
        inputs="ids+ids",
    ):
        yield (
            one,
            {
                "encoder.block.*.layer.0.SelfAttention": 6,
                "decoder.block.*.layer.0.SelfAttention": 6,
                "decoder.block.*.layer.1.EncDecAttention": 6,
            },
        )


def _one_kind_at_a_time(one, kinds):
    """Entries of an encoder-decoder: ``bart-decoder``, ``bart-cross``, ``bart-encoder``."""
    hidden = one.options["d_model"]
    for kind, heads in kinds.items():
        crosses = any(word in kind for word in ("encoder_attn", "cross_attention", "EncDecAttention"))
        which = "cross" if crosses else kind.partition(".")[0]
        expected = {"num_attention_heads": heads, "hidden_size": hidden}
        expected["head_dim"] = one.options.get("d_kv", hidden // heads)
        yield dataclasses.replace(one, name=f"{one.name}-{which}", attention=kind, expected=expected)


ENCODER_DECODERS = {one.name: (one, kinds) for one, kinds in _entries()}
"""Name -> architecture, and ``{kind of attention: heads}``."""


def families():
    """Entries of every kind of attention of every encoder-decoder."""
    for one, kinds in ENCODER_DECODERS.values():
        yield from _one_kind_at_a_time(one, kinds)
