"""A sample as a file: bit-exact, checked at each reading, judged without the journal."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import qkov
from qkov import errors, gradients, shards
from qkov.gradients import Factors
from qkov.samples import Sample
from tests.builders import build_batch, build_model
from tests.stores import equal, fill, flip, same_samples


@pytest.fixture(scope="module")
def collected():
    collector = fill(qkov.FisherCollector(), build_model("llama", dtype=torch.float32))
    return collector, collector.config


def written(folder, sample, config, *, dtype=None, form="factors"):
    """Write one shard and return the sample that is read from it."""
    (folder / "shards").mkdir(exist_ok=True)
    place = shards.Place("a", "loss", 1, 0, 1, shards.file_name(0, "a", sample.sample_id))
    entry, data = shards.encode(sample, place, config, dtype, form)
    (folder / "shards" / entry.file).write_bytes(data)
    return shards.stored_sample(folder, entry, "a")


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_factors_come_back_bit_for_bit(tmp_path, family, dtype):
    model = build_model(family, dtype=dtype)
    memory = fill(qkov.FisherCollector(), model)
    with qkov.FisherCollector(store=tmp_path / "s", store_form="factors") as stored:
        fill(stored, model)
    assert same_samples(memory, stored)
    assert same_samples(memory, qkov.FisherCollector.open(tmp_path / "s"))


def test_shared_inputs_are_stored_once_and_shared_again(tmp_path, collected):
    collector, config = collected
    one = collector.samples("a")[0]
    found = written(tmp_path, one, config)
    q, k = (found.factors[f"model.layers.0.self_attn.{name}_proj"].inputs for name in "qk")
    assert q.data_ptr() == k.data_ptr()
    tensors = load_file(found.factors.path)
    assert sum(name.endswith(":inputs") for name in tensors) == 2 * 2  # Q, K, V of two layers, and O


def test_any_program_reads_the_file(tmp_path, collected):
    collector, config = collected
    one = collector.samples("a")[2]
    tensors = load_file(written(tmp_path, one, config).factors.path)
    name = "model.layers.1.self_attn.o_proj"
    assert equal(tensors[f"{name}:deltas"], one.factors[name].deltas)


@pytest.mark.parametrize("length", [3, 30])
def test_the_smaller_form_is_chosen(tmp_path, length):
    model = build_model("llama", dtype=torch.float32)
    collector = qkov.FisherCollector()
    collector.collect_fisher(model, build_batch((length,)), "a", progress=False)
    sizes = {}
    for form in shards.FORMS:
        found = written(tmp_path, collector.samples("a")[0], collector.config, form=form)
        sizes[form] = found.factors.entry.size
        whole = [pair.bias is not None for pair in found.factors.values()]
        assert any(whole) == (form == "smaller" and length == 30)
    assert sizes["smaller"] <= sizes["factors"]
    assert (sizes["smaller"] < sizes["factors"]) == (length == 30)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt"])
def test_whole_gradients_are_those_of_the_tokens(tmp_path, family):
    model = build_model(family, dtype=torch.float64)
    memory = qkov.FisherCollector()
    memory.collect_fisher(model, build_batch((30,)), "a", progress=False)
    one = memory.samples("a")[0]
    found = written(tmp_path, one, memory.config, form="smaller")
    assert any(pair.bias is not None for pair in found.factors.values())
    for layout in memory.config.layers:
        for projection in layout.projections:
            other = projection.weight_shape[1 - projection.head_axis]
            for unit in range(projection.num_units):
                parts = torch.empty(2, projection.width, other, dtype=torch.float64)
                biases = torch.empty(2, projection.width, dtype=torch.float64)
                for row, sample in enumerate((one, found)):
                    gradients.slice_gradient(sample.factors, projection, unit, parts[row])
                    if projection.bias_name:
                        gradients.bias_gradient(sample.factors, projection, unit, biases[row])
                assert equal(*parts)
                assert not projection.bias_name or equal(*biases)
            norms = found.squared_norms
            assert (layout.layer, projection.block) not in norms or norms[layout.layer, projection.block] == (
                gradients.squared_norm(one.factors, projection)
            )
            if projection.bias_name:
                assert gradients.squared_bias_norm(found.factors, projection) == pytest.approx(
                    gradients.squared_bias_norm(one.factors, projection), rel=1e-14
                )


def test_scores_of_whole_gradients_are_those_of_factors(tmp_path):
    model = build_model("llama", dtype=torch.float64)
    collectors = qkov.FisherCollector(), qkov.FisherCollector(store=tmp_path / "s")
    for one in collectors:
        one.collect_fisher(model, build_batch((30, 25, 9)), "a", progress=False)
        one.collect_fisher(model, build_batch((28, 7), seed=1), "b", progress=False)
        one.seal()
    assert collectors[1].samples("a")[0].factors["model.layers.0.self_attn.q_proj"].bias is not None
    for bias in (False, True):
        options = {"include_bias": bias, "min_samples_for_fisher": 1}
        found = [
            qkov.QKOVInterferenceMetric(one.config, one, **options).compute_heatmap("a", "b") for one in collectors
        ]
        for block in "QKVO":  # a product more or less, so that the last digits differ
            np.testing.assert_allclose(found[1].arrays[block], found[0].arrays[block], rtol=1e-11)


def test_kronecker_factors_need_tokens(tmp_path):
    model = build_model("llama", dtype=torch.float32)
    for form in shards.FORMS:
        with qkov.FisherCollector(store=tmp_path / form, store_form=form) as collector:
            collector.collect_fisher(model, build_batch((30, 31)), "a", sample_ids=["p", "q"], progress=False)
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, variant="kfac", min_samples_for_fisher=1)
        if form == "factors":
            metric.compute_heatmap("a", "a")
        else:
            with pytest.raises(errors.OptionError, match=r"'p'.*needs? the tokens.*store_form='factors'"):
                metric.compute_heatmap("a", "a")


def test_bfloat16_on_disk_moves_gradients_by_its_rounding(tmp_path, collected):
    collector, config = collected
    one = collector.samples("a")[2]
    found = written(tmp_path, one, config, dtype=torch.bfloat16)
    for name in one.factors:
        exact = one.factors[name].deltas.T @ one.factors[name].inputs
        rounded = found.factors[name].deltas.float().T @ found.factors[name].inputs.float()
        assert 1e-5 < (rounded - exact).norm() / exact.norm() < 1e-2


@pytest.mark.parametrize(("value", "dtype"), [(1e300, torch.float32), (1e-300, torch.float32)])
def test_values_outside_the_stored_precision_are_refused(tmp_path, collected, value, dtype):
    config = collected[1]
    pair = Factors(torch.full((2, 3), value, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(errors.PrecisionError, match=r"sample 's'.*leaves the range"):
        written(tmp_path, Sample("s", None, 1, "0", {"m": pair}), config, dtype=dtype)


@pytest.mark.parametrize("cluster", [("a", 1), [1], float("nan"), {"a": 1}, object()])
def test_clusters_that_json_would_change_are_refused(tmp_path, collected, cluster):
    with pytest.raises(errors.SampleIdError, match=r"sample 7 has a cluster label.*Give each cluster a name"):
        written(tmp_path, Sample(7, cluster, 1, "0", {}), collected[1])


@pytest.mark.parametrize("sample_id", [0, -1, 10**40, "", "../../x", "a/b", "\udcff", "nul\0", "<script>", "x" * 5000])
def test_ids_are_kept_and_never_name_a_file(tmp_path, collected, sample_id):
    found = written(tmp_path, Sample(sample_id, None, 1, "0", {}), collected[1])
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert len(found.factors.entry.file) == 8 + 1 + 12 + len(".safetensors")
    place, entry = shards.inspect(found.factors.path)
    assert (entry.sample_id, type(entry.sample_id)) == (sample_id, type(sample_id))
    assert place.task == "a"


def test_samples_without_tokens_are_kept(tmp_path, collected):
    empty = Sample("e", None, 1, "0", {"m": Factors(torch.empty(0, 3), torch.empty(0, 4))})
    assert equal(written(tmp_path, empty, collected[1]).factors["m"].deltas, torch.empty(0, 4))


def test_equal_samples_give_equal_bytes(collected):
    collector, config = collected
    one, place = collector.samples("a")[0], shards.Place("a", "loss", 1, 0, 1, "x.safetensors")
    assert shards.encode(one, place, config, None, "factors") == shards.encode(one, place, config, None, "factors")


def test_few_tensors_are_held_at_a_time(tmp_path, collected):
    collector, config = collected
    shard = written(tmp_path, collector.samples("a")[0], config).factors
    for name in shard:
        shard[name]
    assert len(shard._kept) <= shards.CACHED_TENSORS < 2 * 6


def test_every_flipped_bit_is_noticed(tmp_path, collected):
    collector, config = collected
    found = written(tmp_path, collector.samples("a")[0], config)
    path, entry = found.factors.path, found.factors.entry
    sound = path.read_bytes()
    rng = random.Random(0)
    for place in [*range(9), *(rng.randrange(len(sound)) for _ in range(150))]:
        flip(path, place, rng.randrange(8))
        again = shards.Shard(tmp_path, entry, "a")
        with pytest.raises(errors.StoreDamagedError, match="sample 0 of task 'a' is damaged"):
            [again[name] for name in again]
        assert shards.inspect(path) is None or shards.inspect(path)[1] != entry
        path.write_bytes(sound)


def test_without_its_checksum_a_flipped_tensor_would_pass(tmp_path, collected, monkeypatch):
    collector, config = collected
    monkeypatch.setattr(shards.zlib, "crc32", lambda _data: 0)
    shard = written(tmp_path, collector.samples("a")[0], config).factors
    flip(shard.path, shard.entry.size - 3)
    assert [shard[name] for name in shard]


@pytest.mark.parametrize("size", [0, 5, 8, 200, -1])
def test_a_truncated_shard_is_noticed(tmp_path, collected, size):
    collector, config = collected
    shard = written(tmp_path, collector.samples("a")[1], config).factors
    shard.path.write_bytes(shard.path.read_bytes()[:size])
    with pytest.raises(errors.StoreDamagedError, match=r"store verify.*store repair"):
        [shard[name] for name in shard]
    assert shards.inspect(shard.path) is None


def test_a_missing_shard_is_named(tmp_path, collected):
    collector, config = collected
    shard = written(tmp_path, collector.samples("a")[1], config).factors
    shard.path.unlink()
    with pytest.raises(errors.StoreDamagedError, match="it is missing"):
        list(shard)


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path, collected):
    collector, config = collected
    shard = written(tmp_path, collector.samples("a")[1], config).factors
    shard.path.write_bytes((2**40).to_bytes(8, "little") + shard.path.read_bytes()[8:])
    with pytest.raises(errors.StoreDamagedError, match="first bytes"):
        list(shard)


def test_another_programs_file_is_none_of_ours(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"qkov": json.dumps({"sha256": "0"})})
    assert shards.inspect(tmp_path / "x.safetensors") is None
