"""Signals during a stored collection: the pass is finished, the way to go on is said, a second one acts at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import qkov
from qkov import errors, interruption
from tests.builders import build_model
from tests.stores import digest, fill, make_store

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model():
    return build_model("llama", dtype=torch.float32)


@pytest.fixture(autouse=True)
def interrupts_as_in_a_terminal():
    """A shell starts its background jobs with SIGINT ignored, and those that it starts in turn."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(number, at):
    """A loss that sends a signal to its own process in one of its passes."""
    calls = []

    def loss(network, batch):
        calls.append(None)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return qkov.losses.causal_lm_loss(network, batch)

    return loss


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_the_pass_is_finished_and_the_way_to_go_on_said(tmp_path, model, number):
    before = signal.getsignal(number)
    loss = interrupting(number, 2)
    with pytest.raises(errors.CollectionInterrupted) as raised, qkov.FisherCollector(store=tmp_path / "s") as collector:
        fill(collector, model, loss_fn=loss)
    message = str(raised.value)
    assert raised.value.exit_status == 130
    assert number.name in message
    assert "4 samples of task 'a' are committed" in message
    assert "run the same command" in message
    assert isinstance(raised.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before
    assert collector.sample_ids("a") == (0, 1, 2, 3)
    with qkov.FisherCollector(store=tmp_path / "s") as again:
        fill(again, model, loss_fn=loss)
    assert len(again.sample_ids("a")) == 5


def test_a_second_signal_acts_at_once(tmp_path, model):
    def loss(network, batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return qkov.losses.causal_lm_loss(network, batch)

    with pytest.raises(KeyboardInterrupt) as raised, qkov.FisherCollector(store=tmp_path / "s") as collector:
        fill(collector, model, loss_fn=loss)
    assert not isinstance(raised.value, errors.CollectionInterrupted)
    assert collector.tasks == ()


def test_in_memory_a_signal_acts_as_ever(model):
    with pytest.raises(KeyboardInterrupt) as raised:
        fill(qkov.FisherCollector(), model, loss_fn=interrupting(signal.SIGINT, 2))
    assert not isinstance(raised.value, errors.CollectionInterrupted)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interruption.deferred() as found:
            os.kill(os.getpid(), signal.SIGTERM)
            found.check("nothing")
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_threads_other_than_the_main_one_collect_too(tmp_path, model):
    thread = threading.Thread(target=make_store, args=[tmp_path / "s"])
    thread.start()
    thread.join()
    assert qkov.FisherCollector.open(tmp_path / "s").sealed


SCRIPT = """
import sys, time, torch, qkov
from tests.builders import build_model
from tests.stores import fill
torch.set_num_threads(1)
def slow(network, batch):
    print("pass", flush=True)
    time.sleep(0.2)
    return qkov.losses.causal_lm_loss(network, batch)
slow.__module__, slow.__qualname__ = "qkov.losses", "causal_lm_loss"
with qkov.FisherCollector(store=sys.argv[1]) as collector:
    fill(collector, build_model("llama", dtype=torch.float32), loss_fn=slow)
"""


def test_a_terminated_process_says_how_to_go_on(tmp_path, model):
    folder = tmp_path / "s"
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stdout.readline()
        process.terminate()
        shown = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "interrupted by SIGTERM: 5 samples of task 'a' are committed in" in shown
    with qkov.FisherCollector(store=folder) as again:
        assert again.sample_ids("a") == (0, 1, 2, 3, 4)
        fill(again, model)
    assert digest(folder) == digest(make_store(tmp_path / "whole"))
