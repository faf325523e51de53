"""Masks: exactly as many as asked, ties in order, whole heads and channels as the model sees them, weights restored."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qkov
from qkov import errors, pruning
from qkov.importance import compute_fisher_importance
from qkov.pruning import apply_masks, get_fisher_pruning_masks, load_pruning_masks
from tests import builders
from tests.diagonals import head_of, make_diagonal, tiny_model

FAMILIES = ("llama", "gpt2", "opt", "gpt_neox", "phi3", "qwen3")
BATCH = builders.build_batch((7, 5))
# Few different values, so that most are tied.
TIED = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4)


def output(model):
    with torch.no_grad():
        return model(**BATCH).logits


def by_sorting(values, number):
    """Flag the best by sorting (value, position) pairs: the slow route."""
    places = [(-value, group, place) for group, row in enumerate(values) for place, value in enumerate(row)]
    chosen = {place for _, *place in ((v, (g, p)) for v, g, p in sorted(places)[:number]) for place in place}
    return [[(group, place) in chosen for place in range(len(row))] for group, row in enumerate(values)]


def flags(values, number, rule="count"):
    found, _ = pruning._best([np.array(row, float) for row in values], number, rule)
    return [row.tolist() for row in found]


@given(TIED, st.data())
def test_exactly_the_first_of_the_best_are_kept(values, data):
    size = sum(map(len, values))
    number = data.draw(st.integers(0, size))
    found = flags(values, number)
    assert sum(map(sum, found)) == number
    assert found == by_sorting(values, number)


@given(TIED, st.data())
def test_larger_counts_keep_what_smaller_ones_did(values, data):
    size = sum(map(len, values))
    small = data.draw(st.integers(0, size))
    large = data.draw(st.integers(small, size))
    for rule in ("count", "quantile"):
        pairs = zip(flags(values, small, rule), flags(values, large, rule), strict=True)
        assert all(not one or other for rows in pairs for one, other in zip(*rows, strict=True))


@given(TIED, st.data())
def test_quantile_keeps_all_that_tie_with_the_last(values, data):
    size = sum(map(len, values))
    number = data.draw(st.integers(1, size))
    threshold = sorted((value for row in values for value in row), reverse=True)[number - 1]
    assert flags(values, number, "quantile") == [[value >= threshold for value in row] for row in values]


@pytest.mark.parametrize("mistake", ["off by one", "last of equals"])
def test_a_wrong_choice_is_caught(monkeypatch, mistake):
    right, values = pruning._best, [[1, 1, 2], [1, 2, 1]]
    if mistake == "off by one":
        monkeypatch.setattr(pruning, "_best", lambda scores, number, rule: right(scores, number - 1, rule))
    else:
        monkeypatch.setattr(
            pruning,
            "_best",
            lambda scores, number, rule: (
                [one[::-1] for one in right([one[::-1] for one in scores[::-1]], number, rule)[0][::-1]],
                None,
            ),
        )
    assert flags(values, 3) != by_sorting(values, 3)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("structure", ["head", "channel", "unstructured"])
def test_masks_keep_the_share_asked_for(structure, scope):
    diagonal = make_diagonal("gpt2")
    masks = get_fisher_pruning_masks(diagonal, share=0.3, structure=structure, scope=scope)
    table, units = masks.to_dataframe(), masks.units()
    assert table["num_units"].sum() == sum(one.size for one in units.values())
    assert table["kept_units"].sum() == sum(int(one.sum()) for one in units.values())
    if scope == "layer":
        assert table["kept_units"].tolist() == [int(0.3 * size + 0.5) for size in table["num_units"]]
    else:
        assert table["kept_units"].sum() == int(0.3 * table["num_units"].sum() + 0.5)
        assert table["threshold"].nunique() == 1
    for row in table.itertuples():
        members = [masks.masks[one.param_name] for one in masks.weights if one.layer == row.layer]
        assert row.kept_parameters == sum(int(mask.sum()) for mask in members)
        assert row.num_parameters == sum(mask.numel() for mask in members)
    assert masks.kept_share == table["kept_parameters"].sum() / table["num_parameters"].sum()


def test_unstructured_masks_are_those_of_sorting_all_parameters():
    diagonal = make_diagonal("llama", values=lambda name, shape: torch.arange(shape[0] * shape[1]).reshape(shape) % 7.0)
    for scope in ("layer", "global"):
        masks = get_fisher_pruning_masks(diagonal, count=400, structure="unstructured", scope=scope)
        for layers in [(0, 1)] if scope == "global" else [(0,), (1,)]:
            names = [one.param_name for layer in layers for one in diagonal.weights if one.layer == layer]
            expected = by_sorting([diagonal.values[name].reshape(-1).tolist() for name in names], 400)
            assert [masks.masks[name].reshape(-1).tolist() for name in names] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_kv_heads_stay_until_their_last_query_head_goes(family):
    diagonal = make_diagonal(family, include="attention")
    masks = get_fisher_pruning_masks(diagonal, share=0.5)
    kept = {layer: flags for (layer, _), flags in masks.units().items()}
    assert [int(one.sum()) for one in kept.values()] == [3, 3]
    for name, mask in masks.masks.items():
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                layer, block, unit = head_of(diagonal.config, name, row, column)
                layout = diagonal.config.layer(layer)
                served = [head for head in range(layout.num_heads) if layout.unit(block, head) == unit]
                assert bool(mask[row, column]) == any(kept[layer][head] for head in served)


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_heads_do_what_masking_their_output_does(family):
    """Zeroing a head's weights equals zeroing what it hands to the O projection: another route, through hooks."""
    model = tiny_model(family)
    masks = get_fisher_pruning_masks(make_diagonal(family, include="attention"), count=2)
    with apply_masks(model, masks):
        found = output(model)
    hooks = []
    for layout in masks.config.layers:
        projection = layout.projection("O")
        keep = torch.ones(layout.num_heads * layout.v_head_dim, dtype=torch.float64)
        for head in np.flatnonzero(~masks.units()[layout.layer, "heads"]):
            keep[slice(*projection.interval(head))] = 0
        module = model.get_submodule(projection.module_name)
        hooks.append(module.register_forward_pre_hook(lambda module, inputs, keep=keep: (inputs[0] * keep,)))
    expected = output(model)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert (found - output(model)).abs().max() > 1e-2


def test_heads_of_o_cut_by_rows_are_caught():
    """The test above sees a layout that takes O's rows for its heads (as wide as its columns here)."""
    model, diagonal = tiny_model("opt"), make_diagonal("opt", include="attention")
    layers = []
    for layout in diagonal.config.layers:
        turned = dataclasses.replace(layout.projection("O"), head_axis=0)
        layers.append(dataclasses.replace(layout, projections=(*layout.projections[:3], turned)))
    wrong = dataclasses.replace(diagonal, config=qkov.QKOVConfig(tuple(layers)))
    right_masks, wrong_masks = (get_fisher_pruning_masks(one, count=2) for one in (diagonal, wrong))
    with apply_masks(model, right_masks):
        expected = output(model)
    with apply_masks(model, wrong_masks):
        assert (output(model) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi3"])
def test_masked_channels_do_what_masking_their_features_does(family):
    model = tiny_model(family)
    masks = get_fisher_pruning_masks(make_diagonal(family), share=0.4, structure="channel")
    assert {"mlp"} == {one.kind for one in masks.weights}
    with apply_masks(model, masks):
        found = output(model)
    hooks = []
    for (_, name), kept in masks.units().items():
        keep = torch.tensor(kept, dtype=torch.float64)
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda module, inputs, keep=keep: (inputs[0] * keep,)))
    expected = output(model)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert (found - output(model)).abs().max() > 1e-3


def relabelled(diagonal, order):
    """The same diagonal with kv groups in another order, in all four blocks."""
    values = {name: value.clone() for name, value in diagonal.values.items()}
    for layout in diagonal.config.layers:
        for projection in layout.projections:
            per_group = projection.num_units // layout.num_kv_heads
            for unit in range(projection.num_units):
                source = order[unit // per_group] * per_group + unit % per_group
                index, taken = projection.slice_of(unit).index, projection.slice_of(source).index
                values[projection.param_name][index] = diagonal.values[projection.param_name][taken]
    return dataclasses.replace(diagonal, values=values)


@given(st.permutations(range(3)), st.integers(0, 6))
def test_relabelling_heads_relabels_masks(order, count):
    diagonal = make_diagonal("qwen3", include="attention")  # 6 heads on 3 kv heads
    one = get_fisher_pruning_masks(diagonal, count=count).units()
    other = get_fisher_pruning_masks(relabelled(diagonal, order), count=count).units()
    for key, kept in one.items():
        expected = [kept[order[head // 2] * 2 + head % 2] for head in range(6)]
        assert other[key].tolist() == expected


def test_lowest_keeps_what_highest_prunes():
    diagonal = make_diagonal("llama")
    for structure in ("head", "channel", "unstructured"):
        high = get_fisher_pruning_masks(diagonal, share=0.5, structure=structure).units()
        low = get_fisher_pruning_masks(diagonal, share=0.5, structure=structure, keep="lowest").units()
        assert all(np.array_equal(high[key], ~low[key]) for key in high)
    table = get_fisher_pruning_masks(diagonal, count=1, keep="lowest").to_dataframe()
    scores = compute_fisher_importance(diagonal).query_heads()
    assert table["threshold"].tolist() == [values.min() for values in scores.values()]


def test_layers_compete_globally_as_normalised():
    louder = make_diagonal(values=lambda name, shape: torch.rand(shape) + (1000 if ".0." in name else 0))
    plain = get_fisher_pruning_masks(louder, share=0.5, scope="global")
    assert plain.to_dataframe()["kept_units"].tolist() == [6, 0]
    equal = compute_fisher_importance(louder, normalisation="layer")
    assert get_fisher_pruning_masks(equal, share=0.5, scope="global").to_dataframe()["kept_units"].min() > 0


def test_nothing_and_everything_can_be_kept():
    diagonal = make_diagonal("gpt2")
    nothing = get_fisher_pruning_masks(diagonal, count=0)
    assert not any(mask.any() for mask in nothing.masks.values())
    assert nothing.to_dataframe()["threshold"].isna().all()
    everything = get_fisher_pruning_masks(diagonal, share=1, structure="unstructured", rule="quantile")
    assert all(mask.all() for mask in everything.masks.values())
    assert everything.kept_share == 1


def test_weights_are_restored_in_every_bit_after_an_error_too():
    model = builders.build_model("gpt2", dtype=torch.float32)
    awkward = dict(model.named_parameters())["transformer.h.0.attn.c_attn.weight"]
    with torch.no_grad():
        awkward[0, :3] = torch.tensor([-0.0, float("nan"), float("inf")])
    masks = get_fisher_pruning_masks(make_diagonal("gpt2"), count=0, structure="unstructured")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}

    def interrupted():
        with apply_masks(model, masks) as masked:
            assert masked is model
            assert not awkward.any()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for name, value in model.named_parameters():
        assert value.detach().numpy().tobytes() == before[name].numpy().tobytes()
        assert value.grad is None
        assert value.requires_grad


def test_masks_of_another_model_change_nothing():
    model = tiny_model("llama")
    before = output(model)
    good = torch.zeros(24, 24, dtype=torch.bool)
    for bad, error in (
        ({"other": good}, errors.UnknownParameterError),
        ({"model.layers.0.self_attn.k_proj.weight": good}, errors.ShapeError),
        ({"model.layers.0.self_attn.o_proj.weight": good.float()}, errors.ShapeError),
    ):
        with pytest.raises(error), apply_masks(model, {"model.layers.0.self_attn.q_proj.weight": good} | bad):
            pass
    assert torch.equal(output(model), before)


@pytest.mark.parametrize("structure", ["head", "channel", "unstructured"])
def test_saved_masks_come_back_in_every_bit(tmp_path, structure):
    masks = get_fisher_pruning_masks(make_diagonal("gpt2", include="all"), share=0.5, structure=structure)
    path = masks.save(tmp_path / "masks.safetensors")
    loaded = load_pruning_masks(path)
    assert loaded == masks
    assert loaded.units().keys() == masks.units().keys()
    assert "keeps" in repr(loaded)
    assert "PruningMasks" in loaded._repr_html_()
    with pytest.raises(errors.ResultFileError, match="qkov-fisher-importance"):
        qkov.load_fisher_importance(path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, errors.OptionError, "exactly one"),
        ({"share": 0.5, "count": 1}, errors.OptionError, "exactly one"),
        ({"share": 1.5}, errors.OptionError, "0 to 1"),
        ({"share": float("nan")}, errors.OptionError, "0 to 1"),
        ({"count": -1}, errors.OptionError, "from 0 up"),
        ({"count": 1.0}, errors.OptionError, "integer"),
        ({"count": 7}, errors.OptionError, "at most 6.*layer 0"),
        ({"count": 13, "scope": "global"}, errors.OptionError, "at most 12.*all layers"),
        ({"share": 0.5, "structure": "row"}, errors.OptionError, "structure"),
        ({"share": 0.5, "scope": "block"}, errors.OptionError, "scope"),
        ({"share": 0.5, "rule": "best"}, errors.OptionError, "rule"),
        ({"share": 0.5, "keep": "all"}, errors.OptionError, "keep"),
    ],
)
def test_requests_without_meaning_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        get_fisher_pruning_masks(make_diagonal("llama"), **options)


def test_units_that_were_not_collected_are_refused():
    with pytest.raises(errors.UnknownParameterError, match="no weights of mlp"):
        get_fisher_pruning_masks(make_diagonal("llama", include="attention"), share=0.5, structure="channel")
    with pytest.raises(errors.UnknownParameterError, match="no weights of attention"):
        get_fisher_pruning_masks(make_diagonal("llama", include="mlp"), share=0.5)
    some = make_diagonal("llama", include=("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj"))
    with pytest.raises(errors.UnknownParameterError, match="without block K, V"):
        get_fisher_pruning_masks(some, share=0.5)
    with pytest.raises(errors.LayoutError, match="heads"):
        get_fisher_pruning_masks(dataclasses.replace(make_diagonal("llama"), config=None), share=0.5)


def test_masks_that_do_not_fit_their_weights_are_refused():
    masks = get_fisher_pruning_masks(make_diagonal("llama"), share=0.5)
    wrong = masks.masks | {"model.layers.0.self_attn.q_proj.weight": torch.ones(24, 24)}
    with pytest.raises(errors.ShapeError, match="q_proj"):
        dataclasses.replace(masks, masks=wrong)


def test_heads_share_their_weight_with_what_belongs_to_no_head():
    """Rows of a fused weight that are in no head stay, whatever is pruned."""
    base = make_diagonal("llama", include="attention")
    layers = []
    for layout in base.config.layers:
        short = dataclasses.replace(layout.projection("Q"), width=3)
        layers.append(dataclasses.replace(layout, head_dim=3, k_head_dim=3, projections=(short, *_narrow(layout))))
    diagonal = dataclasses.replace(base, config=qkov.QKOVConfig(tuple(layers)))
    masks = get_fisher_pruning_masks(diagonal, count=0)
    kept = masks.masks["model.layers.0.self_attn.q_proj.weight"].all(1)
    assert kept.tolist() == [row % 4 == 3 for row in range(24)]


def _narrow(layout):
    return dataclasses.replace(layout.projection("K"), width=3), layout.projection("V"), layout.projection("O")


def test_sizes_may_be_numbers_of_numpy():
    diagonal = make_diagonal("gpt2")
    by_count = get_fisher_pruning_masks(diagonal, count=np.int64(3))
    by_share = get_fisher_pruning_masks(diagonal, share=np.float32(0.5))
    assert all(torch.equal(mask, by_share.masks[name]) for name, mask in by_count.masks.items())
