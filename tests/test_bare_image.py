"""What a GPU runner runs needs only torch, transformers, numpy, scipy, xarray, pytest and hypothesis.

Shown in processes that find neither the modules nor the distributions of ``bare_image/sitecustomize.py``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BARE = ROOT / "tests" / "bare_image"
GPU_TESTS = ("tests/test_gpu.py", "tests/test_interference.py", "tests/test_reference_values.py")

SCORING = """
import importlib.metadata, sys
import torch, transformers
import qkov, validation.bench, validation.gpu
from sitecustomize import ABSENT

config = transformers.LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2
)
model = transformers.LlamaForCausalLM(config)
collector = qkov.FisherCollector()
for task, seed in (("a", 1), ("b", 2)):
    ids = torch.randint(0, 50, (5, 9), generator=torch.Generator().manual_seed(seed))
    collector.collect_fisher(model, {"input_ids": ids}, task, progress=False)
metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled", min_samples_for_fisher=1)
heatmap = metric.compute_heatmap("a", "b", progress=False)
found = {name.partition(".")[0] for name in sys.modules}
print("scored", heatmap.data.scores.shape, "absent and imported:", sorted(found & ABSENT))
print(validation.gpu.statistics("llama-sdpa", "cpu")[0]["reason"])
"""


def bare(*arguments):
    """Run Python as on a bare image; ``(exit status, what it printed)``. Nothing of CUDA is visible."""
    paths = [str(BARE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_packages_are_hidden_as_if_they_were_not_installed():
    status, said = bare(
        "-c",
        "import importlib.metadata as m, importlib.util as u, sys\n"
        "print([u.find_spec(one) for one in ('statsmodels', 'matplotlib', 'typer')], u.find_spec('numpy') is None)\n"
        "print({'timeout', 'xdist'} & {one.name for one in m.entry_points(group='pytest11')})\n"
        "import statsmodels.api",
    )
    assert status == 1
    assert "[None, None, None] False" in said
    assert "set()" in said
    assert "ModuleNotFoundError: No module named 'statsmodels'" in said


def test_scores_are_computed_without_the_packages_that_are_absent():
    status, said = bare("-c", SCORING)
    assert status == 0, said
    assert "scored (4, 1, 4, 5, 5) absent and imported: []" in said
    assert "statsmodels is missing" in said


def test_validation_on_a_gpu_says_that_it_did_not_run():
    status, said = bare("-m", "validation.gpu")
    assert status == 0, said
    assert "not run: no CUDA device" in said
    assert "0 passed, 0 failed" in said


@pytest.mark.parametrize("option", [(), ("--require-gpu",)])
def test_tests_on_a_gpu_are_collected_or_refused(option):
    status, said = bare(
        "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--collect-only", *GPU_TESTS, *option
    )
    if option:
        assert status == 1
        assert "--require-gpu: no CUDA device; nothing was run" in said
    else:
        assert status == 0, said
        assert "error" not in said.lower()
        assert "test_all_memory_comes_back" in said


def test_every_file_with_tests_of_a_gpu_is_among_them():
    marker = "mark" + ".gpu"
    files = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py") if marker in path.read_text()
    }
    assert files == set(GPU_TESTS)
