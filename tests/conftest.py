"""Settings of the test run: threads, network, Hypothesis, and tests that need a GPU."""

import os

# Before the first import of torch or transformers, in every xdist worker; values from outside win.
for variable, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
}.items():
    os.environ.setdefault(variable, value)

import hypothesis
import pytest

from validation import offline

# In every test and every process of Python that one starts: nothing may need the network, or use it unnoticed.
offline.block_sockets()

# The same examples in every run, so that a failure on one machine is a failure on all; `--hypothesis-profile=explore`
# looks for new ones. No deadline: the first call of anything in torch is slow.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True, max_examples=1000)
# For mutants a failure is enough; nobody reads the smallest example.
hypothesis.settings.register_profile(
    "mutants",
    hypothesis.settings.get_profile("repeatable"),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
    """Skip tests marked `gpu` where there is no CUDA device; pytest counts and names them in its summary."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="no CUDA device"))
