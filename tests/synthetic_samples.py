"""Samples with random factors in the shapes of a model: for speed and memory, where a forward pass would only take time."""

import torch
import transformers

import qkov
from qkov import samples
from qkov.gradients import Factors


class Synthetic:
    """What the metric asks of a collector, with random factors: not what any model gives."""

    contribution_normalisation, ema_decay, model_fingerprint = "tokens", 0.99, "0" * 64

    def __init__(self, config, tasks):
        self.config, self._tasks = config, tasks
        self.tasks = tuple(tasks)

    def samples(self, task):
        return self._tasks[task]

    def sample_ids(self, task):
        return tuple(one.sample_id for one in self._tasks[task])

    def sample(self, task, sample_id):
        return self._tasks[task][sample_id]

    def skipped(self, task):
        return {}


def synthetic(*, num_samples, tokens, hidden, heads, kv_heads=None, layers=1, seed=0):
    """Return a :class:`Synthetic` of tasks "a" and "b" in the shapes of a Llama."""
    model = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=11,
            hidden_size=hidden,
            intermediate_size=8,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads or heads,
        )
    )
    config, generator = qkov.QKOVConfig.from_model(model), torch.Generator().manual_seed(seed)

    def factors():
        found = {}
        for layout in config.layers:
            shared = torch.randn(tokens, hidden, generator=generator)
            for projection in layout.projections:
                d_out, d_in = projection.weight_shape
                inputs = shared if projection.block != "O" else torch.randn(tokens, d_in, generator=generator)
                found[projection.module_name] = Factors(inputs, torch.randn(tokens, d_out, generator=generator))
        return found

    tasks = {
        task: tuple(samples.Sample(number, None, tokens - 1, "", factors()) for number in range(num_samples))
        for task in "ab"
    }
    return Synthetic(config, tasks)
