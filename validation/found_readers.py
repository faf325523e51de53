"""Families of transformers that read text from pictures, as data: see :mod:`validation.found_vision`."""

from .found_architectures import PLAIN
from .found_vision import IMAGE, MEET_POSITIONS
from .tiny_models import models


def _decoders():
    reader = {"d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 6, "decoder_ffn_dim": 7}
    for which, kind in (("trocr", "self_attn"), ("trocr-cross", "encoder_attn")):
        yield from models(
            PLAIN,
            f"{which}:TrOCRForCausalLM",
            options=reader,
            part="model.decoder",
            inputs={"input_ids": "ids", "encoder_hidden_states": (1, 4, 24)},
            attention=f"layers.*.{kind}",
        )


def _text_readers():
    blocks = [[[3, 16, 16, 1, False]]] * 5
    for pair, backbone in (
        (
            "pp_ocrv5_server_rec:PPOCRV5ServerRecEncoderWithSVTR",
            {"model_type": "hgnet_v2", "stage_out_channels": [4, 4, 4, 16]},
        ),
        (
            "pp_ocrv5_mobile_rec:PPOCRV5MobileRecEncoderWithSVTR",
            {"model_type": "pp_lcnet_v3", "block_configs": blocks, "out_features": ["stage1"]},
        ),
        (
            "pp_ocrv6_small_rec:PPOCRV6SmallRecEncoderWithSVTR",
            {"model_type": "pp_lcnet_v3", "block_configs": blocks, "out_features": ["stage1"]},
        ),
    ):
        yield from models(
            PLAIN,
            pair,
            packing="concatenated",
            inputs={"hidden_states": (1, 16, 1, 6)},
            options={"depth": 2, "backbone_config": backbone, "num_hidden_layers": None},
        )
    vision = PLAIN | IMAGE | {"num_hidden_layers": 2, "output_channels": 6, "window_size": 0, "mlp_dim": 7}
    yield from models(
        {},
        "slanext:SLANeXtBackbone",
        packing="concatenated",
        inputs={"hidden_states": (1, 3, 16, 16)},
        options={"vision_config": vision, "post_conv_in_channels": 6, "post_conv_out_channels": 4},
        expected=PLAIN,
        outside={"zeroed_weights": MEET_POSITIONS},
    )


def families():
    """Entries of this area."""
    for group in (_decoders, _text_readers):
        yield from group()
