"""Fingerprints change when and only when what they stand for changes, and determinism is given back as it was found."""

import dataclasses
import json

import pytest
import torch

import qkov
from qkov import reproducibility
from qkov.reproducibility import deterministic, environment_record, model_fingerprint, tensor_digest
from tests.builders import build_model


@pytest.mark.parametrize(
    "same",
    [
        lambda x: x.clone(),
        lambda x: x.T.contiguous().T,
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.clone().requires_grad_(),
    ],
    ids=["copy", "transposed storage", "strided", "in a graph"],
)
def test_digest_depends_on_values_not_on_storage(same):
    tensor = torch.arange(6.0).reshape(2, 3)
    assert tensor_digest(same(tensor)) == tensor_digest(tensor)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.double(),
        lambda x: x.reshape(3, 2),
        lambda x: torch.nextafter(x, x + 1),
        lambda x: x.flip(0),
        lambda x: x.int(),
    ],
    ids=["dtype", "shape", "last bit", "order", "integers"],
)
def test_digest_sees_a_change(other):
    tensor = torch.arange(6.0).reshape(2, 3)
    assert tensor_digest(other(tensor)) != tensor_digest(tensor)


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.int64, torch.float16])
def test_digest_takes_every_dtype(dtype):
    assert tensor_digest(torch.tensor([1, 0], dtype=dtype)) != tensor_digest(torch.tensor([0, 1], dtype=dtype))


def test_digest_takes_empty_and_scalar_tensors():
    digests = {tensor_digest(torch.empty(0)), tensor_digest(torch.empty(0, 3)), tensor_digest(torch.tensor(1.0))}
    assert len(digests) == 3


def test_digest_depends_on_the_order_of_tensors():
    one, two = torch.ones(2), torch.zeros(2)
    assert tensor_digest(one, two) != tensor_digest(two, one)


def test_models_built_alike_have_one_fingerprint():
    assert model_fingerprint(build_model("llama")) == model_fingerprint(build_model("llama"))


def test_fingerprint_ignores_flags():
    model = build_model("gpt2")
    before = model_fingerprint(model)
    assert model_fingerprint(model.train().requires_grad_(False)) == before


@pytest.mark.parametrize("place", [0, -1, 100])
def test_fingerprint_sees_one_changed_weight(place):
    model = build_model("gpt2")
    before = model_fingerprint(model)
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight.view(-1)[place] += 1e-6
    assert model_fingerprint(model) != before


def test_fingerprint_sees_weights_between_its_probes(monkeypatch):
    monkeypatch.setattr(reproducibility, "PROBES_PER_TENSOR", 2)
    model = build_model("gpt2")
    before = model_fingerprint(model)
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight[0, 1] += 1.0
    assert model_fingerprint(model) != before


@pytest.mark.parametrize(("name", "value"), [("rms_norm_eps", 0.1), ("num_attention_heads", 3)])
def test_fingerprint_sees_what_the_configuration_computes(name, value):
    model = build_model("llama")
    before = model_fingerprint(model)
    setattr(model.config, name, value)
    assert model_fingerprint(model) != before


def test_fingerprint_ignores_what_a_configuration_does_not_compute():
    model = build_model("llama")
    before = model_fingerprint(model)
    model.config.use_cache, model.config.name_or_path = False, "elsewhere"
    assert model_fingerprint(model) == before


def test_fingerprint_reads_plain_and_dataclass_configurations():
    @dataclasses.dataclass
    class Sizes:
        packing: str

    class Plain(torch.nn.Linear):
        config = None

    first, second = Plain(2, 2, bias=False), Plain(2, 2, bias=False)
    second.load_state_dict(first.state_dict())
    assert model_fingerprint(first) == model_fingerprint(second)
    first.config, second.config = Sizes("interleaved"), Sizes("concatenated")
    assert model_fingerprint(first) != model_fingerprint(second)


def test_fingerprint_sees_the_dtype():
    assert model_fingerprint(build_model("gpt2")) != model_fingerprint(build_model("gpt2", dtype=torch.float32))


@pytest.mark.parametrize(("before", "warn_only"), [(False, False), (True, False), (True, True)])
def test_deterministic_block_restores_what_it_found(before, warn_only):
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(before, warn_only=warn_only)
    try:
        with deterministic(threads=2):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled() == before
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
        assert torch.get_num_threads() == threads
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_block_restores_after_an_error():
    def fail():
        with deterministic():
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  the test's own
        fail()
    assert not torch.are_deterministic_algorithms_enabled()


def test_environment_record_is_json_and_names_what_numbers_depend_on():
    record = json.loads(json.dumps(environment_record()))
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["qkov"] == qkov.__version__  # from a checkout as well, where no metadata is installed
    assert record["threads"] == torch.get_num_threads()
    assert {"python", "platform", "cpu_capability", "omp_num_threads", "cuda"} <= record.keys()


def test_environment_record_says_which_package_is_missing(monkeypatch):
    monkeypatch.setattr(reproducibility, "RECORDED_PACKAGES", ("torch", "no-such-package-of-anyone"))
    assert environment_record()["versions"]["no-such-package-of-anyone"] == "not installed"
