"""Families of text and proteins that are made of several parts, and those of text that are refused, as data.

One entry is one kind of attention; :mod:`validation.tiny_models` says what an entry is.
"""

import dataclasses

from .found_architectures import GROUPED, PLAIN
from .found_text import PAIRS, POSITIONS, SIX, of_kinds
from .tiny_models import VOCAB_SIZE, Architecture, models


def families():
    """Entries of all families."""
    yield from _several_towers()
    yield from _proteins()


def _several_towers():
    sizes = {"num_hidden_layers": 2, "intermediate_size": 7, "vocab_size": VOCAB_SIZE}
    local = GROUPED | sizes | {"hidden_size_global": 48}
    whole = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 1}
    one = Architecture(
        "blt",
        "BltModel",
        options={
            "patch_in_forward": False,
            "patch_size": 3,
            "encoder_hash_byte_group_size": [2],
            "encoder_hash_byte_group_vocab": 11,
            "encoder_config": local,
            "decoder_config": local | {"num_attention_heads": 4},
            "global_config": whole | sizes,
            "patcher_config": GROUPED | sizes,
        },
        fixed={"patch_lengths": [[2, 2, 2]]},
        # Of what it reads, but as wide as all heads: one cannot be told from the other.
        coupling=("q_norm", "k_norm"),
    )
    four = GROUPED | {"num_attention_heads": 4}
    yield dataclasses.replace(
        one, name="blt-encoder_cross", attention="local_encoder.cross_attn_layers.*", expected=GROUPED, layers=(0,)
    )
    yield from of_kinds(
        one,
        {
            "encoder": ("local_encoder.layers.*.self_attn", GROUPED, {}),
            "global": ("global_transformer.layers.*.self_attn", whole, {}),
            "decoder": ("local_decoder.layers.*.self_attn", four, {}),
            "decoder_cross": ("local_decoder.cross_attn_layers.*", four, {}),
        },
    )
    one = Architecture(
        "lxmert",
        "LxmertModel",
        sizes=PLAIN,
        options={"l_layers": 2, "x_layers": 2, "r_layers": 2, "visual_feat_dim": 5},
        inputs={"input_ids": "ids", "visual_feats": (1, 3, 5), "visual_pos": (1, 3, 4)},
    )
    yield from of_kinds(
        one,
        {
            "language": ("encoder.layer.*.attention", {}, {}),
            "vision": ("encoder.r_layers.*.attention", {}, {}),
            "language_after": ("encoder.x_layers.*.lang_self_att", {}, {}),
        },
    )
    text = {"hidden_size": 24, "d_kv": 4, "d_ff": 7, "num_layers": 2, "num_heads": 6, "vocab_size": VOCAB_SIZE}
    vision = {
        "hidden_size": 30,
        "patch_embed_hidden_size": 12,
        "d_ff": 7,
        "d_kv": 4,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
    }
    one = Architecture(
        "pix2struct",
        "Pix2StructForConditionalGeneration",
        options={"text_config": text, "vision_config": vision},
        inputs={"input_ids": "ids", "encoder_hidden_states": (1, 4, 24)},
        part="decoder",
    )
    yield from of_kinds(
        one,
        {
            "decoder": ("layer.*.self_attention.attention", SIX, POSITIONS),
            "cross": ("layer.*.encoder_decoder_attention.attention", SIX, {}),
        },
    )
    patches = {"hidden_states": (1, 5, 30)}
    expected = {"num_attention_heads": 6, "hidden_size": 30, "head_dim": 4}
    yield dataclasses.replace(one, name="pix2struct-vision", inputs=patches, part="encoder.encoder", expected=expected)
    kosmos = {
        "text_config": {"vocab_size": VOCAB_SIZE, "embed_dim": 24, "layers": 2, "ffn_dim": 7, "attention_heads": 6},
        "vision_config": {
            "hidden_size": 30,
            "patch_embed_hidden_size": 12,
            "intermediate_size": 7,
            "head_dim": 4,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
        },
    }
    one = Architecture("kosmos2_5", "Kosmos2_5ForConditionalGeneration", options=kosmos)
    yield dataclasses.replace(one, part="text_model", expected=SIX)
    yield dataclasses.replace(
        one,
        name="kosmos2_5-vision",
        part="vision_model.encoder",
        inputs=patches,
        fixed={"attention_mask": [[1, 1, 1, 1, 1]]},
        expected=expected,
    )


def _proteins():
    sizes = {"num_hidden_layers": 2, "intermediate_size": 7, "vocab_size": VOCAB_SIZE}
    one = Architecture(
        "evolla",
        "EvollaModel",
        sizes=GROUPED,
        options={
            "aligner_num_add_layers": 1,
            "resampler_depth": 2,
            "resampler_dim_head": 4,
            "resampler_heads": 3,
            "resampler_num_latents": 4,
            "protein_encoder_config": PLAIN | sizes | {"max_position_embeddings": 20, "pad_token_id": 1},
        },
        attention="layers.*.self_attn",
    )
    yield one
    yield dataclasses.replace(
        one, name="evolla-protein", attention=None, part="protein_encoder.model", expected={"num_key_value_heads": 6}
    )
    yield dataclasses.replace(
        one,
        name="evolla-compressor",
        packing="concatenated",
        attention=None,
        part="protein_encoder.sequence_compressor_resampler",
        inputs={"embeds": (1, 5, 24)},
        fixed={"mask": [[1, 1, 1, 1, 1]]},
        coupling=("norm_media", "norm_latents"),
        expected={"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4},
    )
    atoms = {"hidden_size": 24, "output_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    places = {"num_uid_rope_pairs": 2, "num_spatial_rope_pairs_per_axis": 1}
    diffusion = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 7}
    yield Architecture(
        "esmfold2",
        "EsmFold2Model",
        options={
            "vocab_size": None,
            "intermediate_size": None,
            "num_hidden_layers": None,
            "hidden_size": 24,
            "pairwise_hidden_size": 10,
            "num_res_types": 5,
            "single_inputs_size": 35,  # width of an atom encoder and 2 * num_res_types + 1
            "folding_trunk_num_hidden_layers": 1,
            "parcae_num_coda_layers": 1,
            "atom_encoder": atoms | places,
            "structure_head": {"diffusion_module": diffusion | {"atom_encoder": atoms | places}},
            "confidence_head": {"num_hidden_layers": 1},
            "msa_encoder": {"num_hidden_layers": 1},
            "lm_encoder": {"num_hidden_layers": 1},
            "esmc_config": PLAIN | sizes,
        },
        inputs={"hidden_states": (1, 5, 24), "attention_bias": (1, 6, 5, 5)},
        layers=(0,),
        part="structure_head.token_transformer.layers.0.self_attn",  # the norms before it have no float64
        expected=SIX,
        outside=PAIRS,
    )
    trunk = {
        "num_blocks": 1,
        "sequence_state_dim": 24,
        "pairwise_state_dim": 20,
        "sequence_head_width": 4,
        "pairwise_head_width": 5,
        "structure_module": {"sequence_dim": 24, "pairwise_dim": 20, "num_blocks": 1},
    }
    one = Architecture(
        "esmfold",
        "EsmForProteinFolding",
        "interleaved",
        PLAIN,
        {
            "is_folding_model": True,
            "vocab_list": None,
            "vocab_size": 33,  # its alphabet
            "mask_token_id": 32,
            "position_embedding_type": "rotary",
            "esmfold_config": {"trunk": trunk, "lddt_head_hid_dim": 4},
        },
        inputs={"sequence_state": (1, 4, 24), "pairwise_state": (1, 4, 4, 20)},
        layers=(0,),
        part="trunk.blocks.0",
        attention="seq_attention",
        outside=PAIRS,
    )
    yield one
    for end in ("start", "end"):
        yield dataclasses.replace(
            one,
            name=f"esmfold-{end}",
            packing="split",
            inputs={"x": (1, 4, 4, 20)},
            part=f"trunk.blocks.0.tri_att_{end}",
            attention=None,
            expected={"num_attention_heads": 4, "head_dim": 5, "hidden_size": 20},
            outside=PAIRS,
        )


def refused():
    """Pairs of an architecture without heads of its own and words of the reason."""
    bart = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 7, "decoder_ffn_dim": 7}
    for pair, options, reason in (
        ("squeezebert:SqueezeBertModel", {"embedding_size": 24, "intermediate_size": 8}, "convolutions in groups"),
        ("funnel:FunnelModel", {"block_sizes": [1, 1], "num_hidden_layers": None}, "biases of the attention join"),
        ("nystromformer:NystromformerModel", {"num_landmarks": 2}, "averaged to landmarks"),
        ("mra:MraModel", {}, "a kernel of its own"),
        ("vits:VitsModel", {"ffn_dim": 7}, "values of their own"),
        (
            "reformer:ReformerModel",
            {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_buckets": 2},
            "again during the backward pass",
        ),
        ("pegasus_x:PegasusXModel", bart | {"num_global_tokens": 2}, "run twice in one pass"),
        ("lxmert:LxmertModel", {"l_layers": 1, "x_layers": 1, "r_layers": 1}, "run twice in one pass"),
        ("visual_bert_alignment:VisualBertForRegionToPhraseAlignment", {}, "no output projection"),
    ):
        sizes = {} if "d_model" in options else PLAIN
        yield next(models(sizes, pair, options=options)), reason
    yield (
        Architecture(
            "longt5",
            "LongT5Model",
            options={"encoder_attention_type": "transient-global", "d_model": 24, "d_ff": 7, "num_layers": 1},
        ),
        "run twice in one pass",
    )
    yield (
        Architecture(
            "prophetnet",
            "ProphetNetModel",
            options={"num_hidden_layers": None, "num_encoder_layers": 1, "num_decoder_layers": 1, "hidden_size": 32},
        ),
        "run twice in one pass",
    )
    for one in _proteins():
        if one.name == "evolla":
            yield dataclasses.replace(one, name="evolla", attention=None), "several projections"
        if one.name == "esmfold":
            yield (
                dataclasses.replace(one, name="esmfold", attention=None, part="trunk.structure_module"),
                "points in space",
            )
