"""Layer, head and block in; rows and columns out."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from qkov.errors import LayoutError, ShapeError, SliceIndexError
from qkov.layout import BLOCKS, BlockHeadSlice, QKOVConfig, QKOVIndexer


def before_mutants():
    """Import the models of the tests, which takes a second, before mutants of the layout are judged one by one."""
    return transformers.Qwen2Model, transformers.LlamaModel, transformers.T5Model


@pytest.fixture(scope="module")
def model():
    config = transformers.Qwen2Config(
        hidden_size=24, intermediate_size=8, vocab_size=11, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.Qwen2Model(config)


@pytest.fixture(scope="module")
def config(model):
    return QKOVConfig.from_model(model)


@pytest.fixture(scope="module")
def indexer(config):
    return QKOVIndexer(config)


def without_layer(config, layer):
    return QKOVConfig(tuple(layout for layout in config.layers if layout.layer != layer))


def test_sizes_are_ints_where_layers_agree(config):
    assert (config.num_layers, config.layer_indices) == (3, (0, 1, 2))
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.v_head_dim) == (6, 2, 4, 4)
    assert config.hidden_size == 24
    assert config.uses_gqa


def test_sizes_are_tuples_where_layers_differ(config):
    other = transformers.Qwen2Config(
        hidden_size=24, intermediate_size=8, vocab_size=11, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    (single,) = QKOVConfig.from_model(transformers.Qwen2Model(other)).layers
    assert not QKOVConfig((single,)).uses_gqa
    mixed = QKOVConfig((*config.layers[:2], dataclasses.replace(single, layer=7)))
    assert (mixed.num_heads, mixed.num_kv_heads, mixed.head_dim) == ((6, 6, 4), (2, 2, 4), (4, 4, 6))
    assert mixed.hidden_size == 24
    assert mixed.layer_indices == (0, 1, 7)
    assert mixed.uses_gqa


def test_layers_are_found_by_the_index_of_the_model(config):
    hybrid = without_layer(config, 1)
    assert hybrid.layer(2).module_name == "layers.2.self_attn"
    with pytest.raises(SliceIndexError, match="No attention in layer 1; valid layers are 0, 2"):
        hybrid.layer(1)


@pytest.mark.parametrize("layer", [-1, 3, True, "0", None])
def test_layers_that_do_not_exist_are_refused_with_the_valid_ones(indexer, layer):
    with pytest.raises(SliceIndexError, match="valid layers are 0-2"):
        indexer.get_slice(layer=layer, head=0, block="Q")


@pytest.mark.parametrize("head", [-1, 6, False, 0.0])
@pytest.mark.parametrize("block", BLOCKS)
def test_heads_that_do_not_exist_are_refused_with_the_range_of_query_heads(indexer, head, block):
    with pytest.raises(SliceIndexError, match=r"head in layer 1 \(layers.1.self_attn\).* 0 to 5"):
        indexer.get_slice(layer=1, head=head, block=block)


@pytest.mark.parametrize("block", ["q", "X", None, 0])
def test_blocks_that_do_not_exist_are_refused(indexer, block):
    with pytest.raises(SliceIndexError, match="valid blocks are Q, K, V, O"):
        indexer.get_slice(layer=0, head=0, block=block)


def test_key_and_value_slices_are_those_of_the_kv_head(indexer):
    name = "layers.2.self_attn.k_proj"
    assert indexer.get_slice(layer=2, head=4, block="K") == BlockHeadSlice(
        f"{name}.weight", (4, 8), None, f"{name}.bias", (4, 8)
    )
    assert indexer.get_slice(layer=2, head=3, block="V") == indexer.get_slice(layer=2, head=5, block="V")
    assert indexer.get_slice(layer=2, head=2, block="V") != indexer.get_slice(layer=2, head=3, block="V")


def test_output_slices_are_columns(indexer):
    expected = BlockHeadSlice("layers.0.self_attn.o_proj.weight", None, (20, 24))
    assert indexer.get_slice(layer=0, head=5, block="O") == expected


def test_slices_of_all_heads_rebuild_the_weights(model, config, indexer):
    rebuilt = {name: torch.full_like(weight, torch.nan) for name, weight in model.named_parameters()}
    for _, _, _, part in indexer:
        assert bool(rebuilt[part.param_name][part.index].isnan().all()), f"{part} was there before"
        rebuilt[part.param_name][part.index] = model.get_parameter(part.param_name)[part.index]
    placed = {p.param_name for layout in config.layers for p in layout.projections}
    assert len(placed) == 12
    for name in placed:
        torch.testing.assert_close(rebuilt[name], model.get_parameter(name).data, rtol=0, atol=0)


def test_every_slice_is_walked_once(indexer):
    walked = [(layer, block, unit) for layer, block, unit, _ in indexer]
    assert len(walked) == len(set(walked)) == 3 * (6 + 2 + 2 + 6)


@given(
    layer=st.integers(0, 2),
    head=st.integers(0, 5),
    block=st.sampled_from(BLOCKS),
    lead=st.lists(st.integers(1, 3), max_size=2),
)
def test_tensors_are_cut_on_their_last_two_axes(indexer, layer, head, block, lead):
    projection = indexer.config.layer(layer).projection(block)
    shape = (*lead, *projection.weight_shape)
    tensor = np.arange(np.prod(shape)).reshape(shape)
    start, stop = projection.interval(indexer.config.layer(layer).unit(block, head))
    expected = np.take(tensor, range(start, stop), axis=projection.head_axis - 2)
    np.testing.assert_array_equal(indexer.slice_tensor(tensor, layer, head, block), expected)
    cut = indexer.slice_tensor(torch.from_numpy(tensor), layer=layer, head=head, block=block)
    np.testing.assert_array_equal(cut.numpy(), expected)


@pytest.mark.parametrize("shape", [(24,), (24, 23), (24, 24, 8), ()])
def test_tensors_of_another_shape_are_refused(indexer, shape):
    with pytest.raises(ShapeError, match=r"does not fit 'layers.0.self_attn.o_proj.weight'; expected \[..., 24, 24\]"):
        indexer.slice_tensor(torch.zeros(shape), 0, 0, "O")


def test_refused_tensor_is_told_the_shape_of_the_weight(indexer):
    with pytest.raises(ShapeError, match=r"does not fit 'layers.0.self_attn.k_proj.weight'; expected \[..., 8, 24\]"):
        indexer.slice_tensor(torch.zeros(24, 8), 0, 0, "K")


@pytest.mark.parametrize("order", [(), (1, 0), (0, 0)])
def test_layers_must_be_distinct_and_in_order(config, order):
    with pytest.raises(LayoutError, match="each once and in rising order"):
        QKOVConfig(tuple(config.layers[layer] for layer in order))


def test_table_has_a_line_for_every_slice(config):
    lines = without_layer(config, 1).describe().split("\n")
    assert lines[0].split("  ")[0] == "layer"
    assert len(lines) == 1 + 2 * (6 + 2 + 2 + 6)
    assert lines[8].split() == ["0", "K", "3-5", "1", "layers.0.self_attn.k_proj.weight[4:8,", ":]", "+", "bias[4:8]"]
    assert lines[-1].split() == ["2", "O", "5", "-", "layers.2.self_attn.o_proj.weight[:,", "20:24]"]


def test_columns_of_the_table_begin_at_one_place(config):
    # Layer 100 is wider than its head; every other cell is narrower.
    far = dataclasses.replace(config.layers[2], layer=1_000_000)
    header, *lines = QKOVConfig((config.layers[0], far)).describe().split("\n")
    assert header.split() == ["layer", "block", "head", "kv", "head", "slice"]
    starts = [header.index(word) for word in (" block", " head", " kv head", " slice")]
    end = header.index("layer") + len("layer")
    for line in lines:
        assert line[:end].strip() in ("0", "1000000")
        assert line[end - 1].isdigit()  # numbers end at one place
        for start in starts:
            assert line[start] == " " != line[start + 1]
    assert {line[starts[1] : starts[2]].strip() for line in lines} == {*"012345", "0-2", "3-5"}


def test_table_without_biases_shows_weights_alone():
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, vocab_size=11, num_hidden_layers=1, num_attention_heads=2
    )
    lines = QKOVConfig.from_model(transformers.LlamaModel(config)).describe().split("\n")
    assert lines[2].split("  ")[-1] == "layers.0.self_attn.q_proj.weight[4:8, :]"


def test_runs_of_numbers_are_written_shortly(config):
    layers = [dataclasses.replace(config.layers[0], layer=layer) for layer in (0, 1, 3, 5, 6, 7)]
    with pytest.raises(SliceIndexError, match=r"^No attention in layer 2; valid layers are 0-1, 3, 5-7\.$"):
        QKOVConfig(tuple(layers)).layer(2)


def test_a_compiled_model_is_its_original(model, config):
    wrapped = torch.nn.Module()
    wrapped._orig_mod = model  # what torch.compile returns holds the model under this name
    assert QKOVConfig.from_model(wrapped) == config


def test_one_of_two_stacks_can_be_named():
    t5 = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=11)
    model = transformers.T5Model(t5)
    decoder = QKOVConfig.from_model(model, attention="decoder.block.*.layer.0.SelfAttention")
    assert decoder.layers[0].module_name == "decoder.block.0.layer.0.SelfAttention"


def test_repr_names_the_width_of_keys_where_it_differs(config):
    (layout,) = without_layer(without_layer(config, 0), 1).layers
    parts = [
        dataclasses.replace(part, starts=(0, 3), width=3) if part.block == "K" else part for part in layout.projections
    ]
    narrow = QKOVConfig((dataclasses.replace(layout, k_head_dim=3, projections=tuple(parts)),))
    assert "head_dim=4, k_head_dim=3, v_head_dim=4" in repr(narrow)
    assert (narrow.k_head_dim, config.k_head_dim) == (3, 4)


def test_repr_names_layers_and_sizes(config):
    assert repr(without_layer(config, 1)) == (
        "QKOVConfig(layers 0, 2, num_heads=6, num_kv_heads=2, head_dim=4, v_head_dim=4, hidden_size=24, split)"
    )
