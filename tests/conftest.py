"""Settings of the test run: threads, network, Hypothesis, and tests that need a GPU."""

import importlib.util
import os

# Before the first import of torch or transformers, in every xdist worker; values from outside win.
for variable, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it deterministic algorithms are refused on a GPU
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


NO_DEVICE = "no CUDA device"


# Importing it hides packages from the process that does: it is for the processes of test_bare_image.
collect_ignore = ["bare_image"]


def pytest_addoption(parser):
    """Add `--require-gpu`; where pytest-timeout is not installed, as on a runner's image, let its setting mean nothing."""
    parser.addoption("--require-gpu", action="store_true", help="fail, not skip, where there is no CUDA device")
    if importlib.util.find_spec("pytest_timeout") is None:
        parser.addini("timeout", "seconds that a test may take; pytest-timeout is not installed, so nothing holds it")


def pytest_sessionstart(session):
    """End the run with status 1 where a GPU is required and there is none: skips would look like success."""
    if session.config.getoption("--require-gpu") and not _has_gpu():
        pytest.exit(f"--require-gpu: {NO_DEVICE}; nothing was run", returncode=1)


def pytest_collection_modifyitems(items):
    """Skip tests marked `gpu` where there is no CUDA device; pytest counts and names them in its summary."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items or _has_gpu():
        return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason=NO_DEVICE))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Skip, with the reason, what needs a family of models that an older transformers has not; here in a fixture."""
    return (yield from _skip_what_is_older())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """The same in the test itself."""
    return (yield from _skip_what_is_older())


def _skip_what_is_older():
    try:
        return (yield)
    except RuntimeError as error:
        if type(error).__name__ != "OlderTransformersError":  # by name: its module imports torch
            raise
        pytest.skip(str(error))


def _has_gpu():
    import torch

    return torch.cuda.is_available()
