r"""Train a small byte-level language model deterministically: the batches, the optimiser, the loop, the held-out loss.

Matrices inside the layers follow orthogonalised momentum ("Muon", K. Jordan 2024): the momentum's singular values are
replaced by about 1, so that every direction of a weight learns at the same speed. Everything else follows AdamW. AdamW
alone left the GPT-2-style model at 1.88 (code) and 2.34 (prose) nats per byte after 1000 steps and the same minute and
a half on one thread.

One thread, fixed seeds and deterministic algorithms: the same machine and versions give the same weights bit for bit.
"""

import torch

from . import tasks

TEXT_TASKS = ("code", "prose")


class OrthogonalMomentum:
    r"""Step along the orthogonalised momentum of matrices, :math:`W \leftarrow W - \eta\, c\, U V^T` for momentum
    :math:`U S V^T`, with :math:`c = 0.2 \sqrt{\max(shape)}`, the size of an AdamW step.

    Args:
        parameters: Matrices.
        momentum: Decay of the moving average; the step looks one average ahead (Nesterov).
    """

    def __init__(self, parameters, *, momentum=0.95):
        self.momentum = momentum
        self._by_shape = {}
        for parameter in parameters:
            self._by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        self._averages = {shape: torch.zeros(len(group), *shape) for shape, group in self._by_shape.items()}

    @torch.no_grad()
    def step(self, learning_rate):
        """Change the parameters by their ``grad``."""
        for shape, parameters in self._by_shape.items():
            grads = torch.stack([parameter.grad for parameter in parameters])
            average = self._averages[shape].lerp_(grads, 1 - self.momentum)
            steps = orthogonalised(grads.lerp(average, self.momentum))
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.sub_(step, alpha=learning_rate * 0.2 * max(shape) ** 0.5)


def orthogonalised(matrices, *, iterations=5):
    r"""Replace singular values by about 1 (0.7 to 1.2), by a quintic iteration without a decomposition.

    .. math:: X \leftarrow a X + b (X X^T) X + c (X X^T)^2 X, \quad (a, b, c) = (3.4445, -4.775, 2.0315)

    Args:
        matrices: ``[count, rows, columns]``.
        iterations: With five, singular values of a hundredth of the norm still come near 1.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def train(model, *, steps, batch_size, length, matrix_rate, other_rate, seed, on_step=None):
    """Train a causal language model on the bytes of both tasks' training modules, in place.

    Prose, the harder text, gets five eighths of every batch.

    Args:
        model: In float32, on the CPU.
        steps: Number of steps; the learning rate rises over the first fourteenth and then falls linearly to 0.
        batch_size, length: Pieces per step, and bytes of a piece.
        matrix_rate: Peak learning rate of :class:`OrthogonalMomentum`, for the matrices inside the layers.
        other_rate: Peak learning rate of AdamW, for embeddings, norms and biases.
        seed: Chooses the pieces.
        on_step: Called with the loss of each step.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = {task: _corpus_tensor(task, "train") for task in TEXT_TASKS}
    matrices = [parameter for parameter in _layers(model).parameters() if parameter.ndim == 2]
    inside = {id(parameter) for parameter in matrices}
    matrix_optimiser = OrthogonalMomentum(matrices)
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    other_optimiser = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.99), weight_decay=0.0)
    warmup = max(10, steps // 14)
    model.train()
    for step in range(steps):
        rate = min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        for group in other_optimiser.param_groups:
            group["lr"] = other_rate * rate
        loss = _mean_loss(model, _training_batch(texts, batch_size, length, generator))
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        matrix_optimiser.step(matrix_rate * rate)
        other_optimiser.step()
        if on_step is not None:
            on_step(loss.item())
    model.eval()


def held_out_loss(model, task, *, num_pieces=128, length=128):
    """Return the mean loss in nats per byte on held-out modules, over pieces evenly spread in their text.

    The first byte of a piece is given; ``length - 1`` are predicted.
    """
    text = _corpus_tensor(task, "held_out")
    starts = torch.linspace(0, len(text) - length - 1, num_pieces).long()
    pieces = torch.stack([text[start : start + length] for start in starts])
    with torch.no_grad():
        return _mean_loss(model.eval(), pieces).item()


def _mean_loss(model, pieces):
    logits = model(input_ids=pieces[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())


def _layers(model):
    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))


def _corpus_tensor(task, split):
    joined = bytearray(b"".join(tasks.read_corpus(task, split).values()))
    return torch.frombuffer(joined, dtype=torch.uint8).long()


def _training_batch(texts, count, length, generator):
    """Draw random pieces of ``length + 1`` bytes, three eighths of them code."""
    num_code = count * 3 // 8
    pieces = []
    for task, number in (("code", num_code), ("prose", count - num_code)):
        starts = torch.randint(len(texts[task]) - length - 1, (number,), generator=generator)
        pieces += [texts[task][start : start + length + 1] for start in starts.tolist()]
    return torch.stack(pieces)
