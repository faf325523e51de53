"""Head types of models: a circuit written by hand is found, models are left as they were, results are labelled and kept."""

import contextlib

import numpy as np
import pytest
import torch
import transformers

import qkov
from qkov import attention_patterns, errors, head_scoring, pattern_scores
from qkov.head_types import HeadTypes
from tests.builders import build_batch, build_model
from tests.heatmaps import make_heatmap, without_layer_one
from tests.induction_circuit import NUM_TOKENS, induction_circuit

NAMES = pattern_scores.MEASURES


def make_types(layers=(0, 1), heads=(0, 1, 2, 3), **attributes):
    """Random scores of the shape of ``tests.heatmaps.make_heatmap``, chance 0.1 everywhere."""
    random = np.random.default_rng(3)
    grid = (len(layers), len(heads))
    return HeadTypes(
        types=NAMES,
        scores=random.random((len(NAMES), *grid)),
        chance=np.full((len(NAMES), len(layers)), 0.1),
        offset=random.integers(0, 5, grid),
        layers=layers,
        heads=heads,
        attributes={"inputs": "made up"} | attributes,
    )


def labelled(labels, **fields):
    """Types whose labels are given: the named score is 0.9, everything else 0.2."""
    types = make_types(**fields)
    scores = np.full_like(types.scores, 0.2)
    for at in np.ndindex(*np.shape(labels)):
        if labels[at[0]][at[1]] != "none":
            scores[(NAMES.index(labels[at[0]][at[1]]), *at)] = 0.9
    scores[NAMES.index("non_uniformity")] = 0.9
    return HeadTypes(**{name: getattr(types, name) for name in types.__dataclass_fields__} | {"scores": scores})


@pytest.fixture(scope="module")
def circuit():
    return induction_circuit()


@pytest.fixture(scope="module")
def of_circuit(circuit):
    return qkov.score_head_types(circuit, length=30, bos=NUM_TOKENS - 1)


def test_circuit_written_by_hand_is_found(of_circuit):
    assert of_circuit.label().tolist() == [["previous_token", "none"], ["induction", "none"]]
    assert of_circuit.score("previous_token")[0, 0] == pytest.approx(1, abs=1e-4)
    assert of_circuit.score("induction")[1, 0] == pytest.approx(1, abs=1e-4)
    assert of_circuit.offset[0, 0] == 1


def test_heads_without_a_query_score_chance(of_circuit):
    np.testing.assert_allclose(of_circuit.scores[:, :, 1], of_circuit.chance, atol=1e-6)


def test_circuit_whose_first_layer_looks_two_back_has_neither_head():
    types = qkov.score_head_types(induction_circuit(shift=2), length=30, bos=NUM_TOKENS - 1)
    assert types.offset[0, 0] == 2
    assert types.label()[0, 0] == "positional"
    assert types.score("previous_token")[0, 0] < 0.01
    assert types.score("induction")[1, 0] < 0.1


def test_circuit_predicts_what_repeats(circuit):
    tokens = head_scoring.repeated_tokens(4, 30, seed=1, token_range=(0, NUM_TOKENS), bos=NUM_TOKENS - 1)
    with torch.no_grad():
        predicted = circuit(input_ids=tokens).logits.argmax(-1)
    for row, after in zip(tokens.tolist(), predicted.tolist(), strict=True):
        again = [at for at in range(1, 29) if row[at] in row[1:at]]
        assert len(again) > 10
        assert all(after[at] == row[at + 1] for at in again)


def state(model):
    """What a measurement must leave as it was."""
    kernels = [config._attn_implementation for config in attention_patterns._configurations(model)]
    return kernels, [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_patterns_are_those_of_the_model_and_all_is_put_back(family):
    model = build_model(family, layers=2)
    model.train()
    next(model.parameters()).requires_grad_(False)
    before = state(model)
    batch = build_batch((8, 8, 6))
    config = qkov.QKOVConfig.from_model(model)
    found = attention_patterns.attention_patterns(model, batch, config)
    assert state(model) == before
    assert not any(module._forward_hooks for module in model.modules())
    eager = build_model(family, layers=2, attention="eager")
    with torch.no_grad():
        expected = eager(**batch, output_attentions=True).attentions
    assert list(found) == [0, 1]
    for layer, pattern in found.items():
        torch.testing.assert_close(pattern, expected[layer], rtol=0, atol=1e-12)


def test_all_is_put_back_when_the_model_fails():
    model = build_model("llama")
    before = state(model)
    with attention_patterns.eager_attention(model):
        assert set(state(model)[0]) == {"eager"}
    with pytest.raises(IndexError):
        attention_patterns.attention_patterns(
            model, {"input_ids": torch.full((1, 4), 99)}, qkov.QKOVConfig.from_model(model)
        )
    assert state(model) == before


def test_layers_without_attention_keep_their_numbers():
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    model = transformers.BambaForCausalLM(
        transformers.BambaConfig(
            **sizes, num_key_value_heads=1, attn_layer_indices=[1, 3], mamba_n_heads=2, mamba_d_head=16, mamba_d_state=4,
            mamba_n_groups=1, mamba_expand=2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    ).eval()  # fmt: skip
    types = qkov.score_head_types(model, length=12, number=2)
    assert types.layers == (1, 3)
    assert types.scores.shape == (len(NAMES), 2, 2)
    assert not np.isnan(types.scores).any()


def test_a_window_counts_as_what_is_visible():
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    model = transformers.MistralForCausalLM(
        transformers.MistralConfig(**sizes, num_key_value_heads=1, sliding_window=4)
    )
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.zero_()
    types = qkov.score_head_types(model, length=20, number=2, bos="none")
    assert types.score("previous_token")[0] == pytest.approx(types.chance[NAMES.index("previous_token")].repeat(2))
    assert types.chance[NAMES.index("previous_token"), 0] == pytest.approx((1 / 3 + 17 / 4) / 18)
    assert types.score("non_uniformity").max() < 1e-6


def test_encoder_has_the_types_that_look_both_ways_and_says_why_not_the_others():
    types = qkov.score_head_types(build_model("bert"), length=12, number=3)
    missing = types.attributes["not_applicable"]
    assert set(missing) == {"duplicate_token", "induction"}
    assert "looks both ways" in missing["induction"]
    assert np.isnan(types.score("induction")).all()
    assert not np.isnan(types.score("previous_token")).any()
    assert types.chance[NAMES.index("current_token")] == pytest.approx([1 / 12, 1 / 12])
    assert "induction not measured" in repr(types)
    padded = qkov.score_head_types(build_model("bert"), inputs=build_batch((8, 6)))
    assert "one length" in padded.attributes["not_applicable"]["positional"]


def test_scores_do_not_depend_on_the_batch_size_and_repeat():
    model = build_model("gpt2", layers=1)
    one, other, again = (
        qkov.score_head_types(model, length=16, number=5, batch_size=size, seed=4) for size in (5, 2, 5)
    )
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-12)
    assert one == again
    assert one != qkov.score_head_types(model, length=16, number=5, seed=5)


def test_padding_on_the_right_changes_nothing():
    model = build_model("llama", layers=1)
    batch = build_batch((9, 9))
    wide = {name: torch.nn.functional.pad(value, (0, 3)) for name, value in batch.items()}
    one, other = (qkov.score_head_types(model, inputs=inputs) for inputs in (batch, wide))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-12)
    with pytest.raises(errors.ShapeError, match="padding on the right"):
        qkov.score_head_types(model, inputs=build_batch((9, 7), padding="left"))


def test_model_that_computes_something_else_under_eager_attention_is_refused(monkeypatch):
    model = build_model("llama")
    forward = model.forward

    def other(*arguments, **options):
        output = forward(*arguments, **options)
        output.logits = output.logits * (2 if model.config._attn_implementation == "eager" else 1)
        return output

    monkeypatch.setattr(model, "forward", other)
    monkeypatch.setattr(head_scoring.losses, "accepts", lambda model, name: True)
    with pytest.raises(errors.PatternError, match="another output under eager attention"):
        qkov.score_head_types(model, length=12)


def test_model_that_stays_with_its_kernel_gives_no_patterns(monkeypatch):
    monkeypatch.setattr(attention_patterns, "eager_attention", lambda model: contextlib.nullcontext())
    with pytest.raises(errors.PatternError, match=r"layer 0 .* returned no attention pattern"):
        qkov.score_head_types(build_model("llama"), length=12)


def test_two_tensors_that_could_be_the_pattern_are_refused():
    layout = qkov.QKOVConfig.from_model(build_model("llama")).layers[0]
    pattern = torch.full((2, 6, 3, 3), 1 / 3)
    choose = attention_patterns._pattern
    assert choose({"": [[pattern]], "inner": [[pattern, pattern]]}, layout, pattern.shape) is pattern
    assert choose({"": [[pattern - 1, pattern, 2 * pattern]]}, layout, pattern.shape) is pattern
    for returned in ({"": [[pattern, pattern]]}, {"": [[pattern], [pattern]]}):
        with pytest.raises(errors.PatternError, match="could be its attention"):
            choose(returned, layout, pattern.shape)


def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 30}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).eval()


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (t5, {}, errors.PatternError, "an encoder and a decoder"),
        (lambda: torch.nn.Linear(2, 2), {}, errors.PatternError, "reads no token ids"),
        (None, {"bos": "start"}, errors.OptionError, "bos='start'"),
        (None, {"length": 5}, errors.OptionError, "at least 8"),
        (None, {"token_range": (5, 9)}, errors.OptionError, "holds 4 tokens"),
        (None, {"threshold": 0}, errors.OptionError, "threshold is 0"),
        (None, {"inputs": {"inputs_embeds": torch.zeros(1, 3, 24)}}, errors.BatchError, "input_ids"),
        (None, {"inputs": torch.full((2, 9), 99)}, errors.BatchError, "embeds 0 to 22"),
    ],
)
def test_what_cannot_be_scored_is_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        qkov.score_head_types(build_model("llama") if model is None else model(), **options)


def test_encoder_of_an_encoder_decoder_can_be_scored():
    assert qkov.score_head_types(t5().get_encoder(), length=12, number=2).attributes["causal"] is False


def test_repeated_tokens_repeat_with_different_periods_and_leave_out_special_tokens():
    tokens = head_scoring.repeated_tokens(12, 41, seed=0, token_range=(0, 40), bos=3, exclude=(1, 2))
    assert (tokens[:, 0] == 3).all()
    assert not torch.isin(tokens[:, 1:], torch.tensor([1, 2, 3])).any()
    periods = [next(p for p in range(1, 40) if row[p:] == row[:-p]) for row in tokens[:, 1:].tolist()]
    assert min(periods) >= 10
    assert max(periods) <= 20
    assert len(set(periods)) > 3
    assert all(len(set(row[:p])) == p for row, p in zip(tokens[:, 1:].tolist(), periods, strict=True))


def test_begin_token_of_the_configuration_stands_first_and_is_no_content():
    model = build_model("llama", layers=1)  # its configuration names 1
    types = qkov.score_head_types(model, length=20)
    assert "after token 1" in types.attributes["inputs"]
    assert types.attributes["special_tokens"] == [0, 1, 2]
    assert "after" not in qkov.score_head_types(model, length=20, bos="none").attributes["inputs"]


def test_label_is_the_type_furthest_above_chance_or_none():
    names = [["previous_token", "none", "induction", "positional"], ["first_token", "duplicate_token", "none", "none"]]
    types = labelled(names)
    assert types.label().tolist() == names
    assert types.label(0.9).tolist() == [["none"] * 3 + ["positional"], ["none"] * 4]  # 0.9 is 0.89 above chance
    scores = types.scores.copy()
    scores[NAMES.index("current_token"), 0, 0] = 0.95
    scores[NAMES.index("non_uniformity"), 0, 3] = 0.1  # even attention is no type, however regular
    scores[:, 1, 3] = np.nan
    changed = HeadTypes(**{name: getattr(types, name) for name in types.__dataclass_fields__} | {"scores": scores})
    assert changed.label()[0].tolist() == ["current_token", "none", "induction", "none"]
    assert changed.label()[1, 3] == ""
    assert len(changed.to_dataframe()) == 7
    assert types.with_threshold(0.9).label().tolist() == types.label(0.9).tolist()


def test_chance_is_taken_off_before_types_are_compared():
    types = labelled([["none"] * 4] * 2)
    scores, chance = types.scores.copy(), types.chance.copy()
    scores[NAMES.index("current_token"), 0, 0], chance[NAMES.index("current_token")] = 0.8, 0.7
    scores[NAMES.index("induction"), 0, 0] = 0.7
    fields = {name: getattr(types, name) for name in types.__dataclass_fields__} | {"scores": scores, "chance": chance}
    assert HeadTypes(**fields).label()[0, 0] == "induction"


def test_saved_types_come_back_bit_for_bit(of_circuit, tmp_path):
    path = of_circuit.save(tmp_path / "types.safetensors")
    loaded = qkov.load_head_types(path)
    assert loaded == of_circuit
    assert loaded.save(tmp_path / "again").read_bytes() == path.read_bytes()
    with pytest.raises(errors.ResultFileError, match="expected 'qkov-head-types'"):
        qkov.load_head_types(make_heatmap().save(tmp_path / "heatmap"))


def test_table_and_pictures_show_labels_and_chance(of_circuit):
    table = of_circuit.to_dataframe()
    assert table[["layer", "head", "type"]].iloc[2].tolist() == [1, 0, "induction"]
    assert table.attrs["chance"]["first_token"][0] == pytest.approx(of_circuit.chance[4, 0])
    figure = of_circuit.plot()
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert "induction, chance 0.07" in titles
    assert "not what it writes" in figure.get_supxlabel().replace("\n", " ")
    assert "1 previous_token, 1 induction, 2 none" in repr(of_circuit)
    assert "<td>induction</td>" in of_circuit._repr_html_()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"scores": np.zeros((1, 2, 4))}, errors.ShapeError, "scores has shape"),
        ({"chance": np.zeros(8)}, errors.ShapeError, "chance has shape"),
        ({"layers": (0, 0)}, errors.ShapeError, "different numbers"),
        ({"attributes": {"threshold": 2}}, errors.OptionError, "threshold is 2"),
        ({"attributes": {"x": object()}}, errors.OptionError, "JSON"),
    ],
)
def test_inconsistent_types_are_refused(fields, error, message):
    types = make_types()
    with pytest.raises(error, match=message):
        HeadTypes(**{name: getattr(types, name) for name in types.__dataclass_fields__} | fields)
    with pytest.raises(errors.OptionError, match="No head type 'copying'"):
        types.score("copying")


LABELS = [["induction", "induction", "none", "none"], ["previous_token", "induction", "none", "first_token"]]


def test_heatmap_with_types_has_them_as_coordinates():
    types = labelled(LABELS, layers=(1, 0), heads=(3, 2, 1, 0))
    heatmap = make_heatmap().with_head_types(types)
    assert heatmap.head_types.layers == (0, 1)
    data = heatmap.data
    assert str(data["head_type"].sel(layer=1, head=3).item()) == "induction"
    assert str(data["head_type"].sel(layer=0, head=3).item()) == "previous_token"
    assert float(data["type_induction"].sel(layer=1, head=2)) == 0.9
    means = data["layer_head_avg"].sel(block="Q").groupby("head_type").mean()
    table = heatmap.group_by_type("Q")
    for name in ("induction", "none"):
        assert float(means.sel(head_type=name)) == pytest.approx(table.loc[name, "mean"])
    assert heatmap.to_dataframe("slice")["head_type"].tolist()[:4] == [
        "first_token",
        "none",
        "induction",
        "previous_token",
    ]


def check_kv_heads_are_counted_once(heatmap):
    for block in "KV":
        assert heatmap.group_by_type(block)["num_units"].to_dict() == {"induction": 1, "none": 1, "mixed": 2}


def test_group_by_type_counts_each_kv_head_once():
    heatmap = make_heatmap().with_head_types(labelled(LABELS))
    queries, keys = heatmap.group_by_type("Q"), heatmap.group_by_type("K")
    assert queries["num_units"].to_dict() == {"previous_token": 1, "induction": 3, "first_token": 1, "none": 3}
    check_kv_heads_are_counted_once(heatmap)
    means = heatmap.mean_map("K")
    assert keys.loc["induction", "mean"] == pytest.approx(means[0, 0])
    assert keys.loc["mixed", "mean"] == pytest.approx(means[1].mean())
    assert keys.loc["mixed", "sd"] == pytest.approx(means[1].std())
    own = heatmap.mean_map("Q")
    assert queries.loc["induction", "mean"] == pytest.approx(np.mean([own[0, 0], own[0, 1], own[1, 1]]))
    assert queries.loc["induction", "lowest"] == min(own[0, 0], own[0, 1], own[1, 1])


def test_absent_slices_are_in_no_group():
    heatmap = make_heatmap()
    fields = {name: getattr(heatmap, name) for name in heatmap.__dataclass_fields__} | without_layer_one(heatmap)
    typed = qkov.Heatmap(**fields).with_head_types(labelled(LABELS))
    assert typed.group_by_type("K")["num_units"].sum() == 2
    assert typed.group_by_type("O")["num_units"].sum() == 7


def test_heatmap_keeps_its_types_in_its_file_and_files_without_them_are_as_before(tmp_path):
    plain = make_heatmap()
    typed = plain.with_head_types(make_types())
    loaded = qkov.load_heatmap(typed.save(tmp_path / "typed"))
    assert loaded == typed
    assert loaded.head_types == typed.head_types
    assert typed != plain
    assert typed.with_head_types(None) == plain
    assert not any("head_types" in name for part in plain._parts() for name in part)


def test_types_of_another_model_or_of_too_few_heads_are_refused():
    heatmap = make_heatmap(attributes={"model_fingerprint": "a"})
    with pytest.raises(errors.ModelChangedError, match="another model"):
        heatmap.with_head_types(make_types(model_fingerprint="b"))
    heatmap.with_head_types(make_types(model_fingerprint="a"))
    with pytest.raises(errors.SliceIndexError, match="No layer 0"):
        heatmap.with_head_types(make_types(layers=(1, 2)))
    with pytest.raises(errors.OptionError, match="score_head_types"):
        heatmap.with_head_types("types")
    with pytest.raises(errors.OptionError, match="with_head_types first"):
        heatmap.group_by_type("Q")
    with pytest.raises(errors.OptionError, match="block is 'X'"):
        heatmap.with_head_types(make_types()).group_by_type("X")
    absent = make_types()
    scores = absent.scores.copy()
    scores[:, 1, 2] = np.nan
    missing = HeadTypes(**{name: getattr(absent, name) for name in absent.__dataclass_fields__} | {"scores": scores})
    with pytest.raises(errors.ShapeError, match="layer 1, head 2"):
        heatmap.with_head_types(missing)


def test_counting_a_kv_head_for_every_query_head_is_caught(monkeypatch):
    from qkov import tables

    typed = make_heatmap().with_head_types(labelled(LABELS))
    monkeypatch.setattr(qkov.Heatmap, "exists", lambda heatmap, block: heatmap.present)
    monkeypatch.setattr(
        qkov.Heatmap,
        "mean_map",
        lambda heatmap, block: heatmap.on_query_heads(block, heatmap.arrays[block].mean((0, 1))),
    )
    monkeypatch.setattr(
        tables, "unit_types", lambda heatmap, block, threshold=None: heatmap.head_types.label(threshold)
    )
    with pytest.raises(AssertionError):
        check_kv_heads_are_counted_once(typed)
