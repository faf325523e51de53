"""Plans of disk and memory: what is estimated is what is taken, and too much is refused before it begins."""

import shutil

import pytest
import torch

import qkov
from qkov import errors, memory, resources
from tests.builders import build_batch, build_model


@pytest.mark.parametrize("weights", ["attention", ("attention", "mlp")])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt"])
def test_estimate_is_what_a_sample_takes(family, weights):
    model = build_model(family, dtype=torch.float32)
    collector = qkov.FisherCollector(weights=weights)
    collector.collect_fisher(model, build_batch((12,)), "a", progress=False)
    seen, taken = set(), 0
    for pair in collector.samples("a")[0].factors.values():
        for tensor in (pair.inputs, pair.deltas):
            if (tensor.data_ptr(), tensor.shape) not in seen:
                seen.add((tensor.data_ptr(), tensor.shape))
                taken += tensor.nbytes
    # The last token, which predicts nothing, gets no gradient in the last layer.
    assert 0.9 < taken / resources.sample_bytes(collector.weights, collector.config, 12, 4) <= 1


def test_a_plan_beyond_the_memory_is_refused_before_any_pass(monkeypatch):
    model = build_model("llama", dtype=torch.float32)
    monkeypatch.setattr(memory, "available_bytes", lambda: 20_000)
    collector = qkov.FisherCollector()
    with pytest.raises(
        errors.MemoryLimitError,
        match=r"3 samples of task 'a'.*GiB of memory are available.*FisherCollector\(store=path\)",
    ) as raised:
        collector.collect_fisher(
            model, build_batch((9, 9, 9)), "a", loss_fn=lambda *_: pytest.fail("a pass was made"), progress=False
        )
    assert raised.value.exit_status == 8
    assert collector.tasks == ()


@pytest.mark.parametrize(("needed", "refused"), [(899, False), (901, True)])
def test_a_plan_may_take_nine_tenths(tmp_path, monkeypatch, needed, refused):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _path: usage)
    if refused:
        with pytest.raises(errors.DiskError, match=r"x needs about 901 bytes.*1 kB are free.*store_dtype='bfloat16'"):
            resources.require_disk(tmp_path, needed, "x")
    else:
        resources.require_disk(tmp_path, needed, "x")
