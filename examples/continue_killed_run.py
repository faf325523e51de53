"""What is lost when a collection is killed? Nothing that was committed, and the end is the same byte for byte.

    python continue_killed_run.py [FOLDER]

Starts a collection into a store in another process, kills it in the middle with SIGKILL, which no program can catch,
and runs the same lines again here. What is held is skipped.

It prints how many samples were there after the kill, that scores of the unfinished store are refused, and that the
finished one has the bytes of a store whose collection was never interrupted.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

import qkov

SAMPLES = 80


def collect(store):
    """Collect two tasks; called with the same store it goes on where it was."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=256, **sizes))
    texts = {"prose": shutil.copytree.__doc__, "code": Path(shutil.__file__).read_text()[3000:]}
    with qkov.FisherCollector(store=store) as collector:
        for task, text in texts.items():
            rows = [list(text.encode()[8 * row : 8 * row + 32]) for row in range(SAMPLES)]
            collector.collect_fisher(model, {"input_ids": torch.tensor(rows)}, task, micro_batch=2, progress=False)


def kill_in_the_middle(store):
    """Start this program a second time to collect into a store, and kill it once some samples are there."""
    child = subprocess.Popen([sys.executable, __file__, "--collect", store])
    while child.poll() is None and len(list(Path(store).glob("shards/*.safetensors"))) < SAMPLES // 2:
        time.sleep(0.001)
    child.kill()
    child.wait()


def digests(store):
    """Return the SHA-256 of every file but the lock, which says who was writing."""
    files = sorted(path for path in Path(store).rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(store): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(folder):
    killed, whole = folder / "killed.store", folder / "whole.store"
    kill_in_the_middle(killed)
    try:
        qkov.FisherCollector.open(killed)
    except qkov.errors.UnsealedStoreError as error:
        print("after the kill:", error)

    collect(killed)
    collect(whole)
    found = qkov.FisherCollector.open(killed)
    print("after going on:", {task: len(found.samples(task)) for task in found.tasks}, "samples")
    assert digests(killed) == digests(whole)
    print(f"all {len(digests(whole))} files are those of an uninterrupted collection, byte for byte")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--collect"]:
        collect(sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path((sys.argv[1:] or [temporary])[0]))
