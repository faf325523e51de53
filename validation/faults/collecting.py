"""Faults of collection: hooks, what is kept of a pass, and the state in which the model is run and left."""

import contextlib
import functools

import torch

from qkov.gradients import Factors

from .planting import fault

collection = functools.partial(fault, area="collection")


@collection("gradients.collect_factors", expected="order_invariance")
def accumulated_over_samples(original):
    """Gradients are not cleared between samples: each holds the sum of all before it in the pass."""

    def collect_factors(*arguments):
        found, before = [], {}
        for factors, tokens in original(*arguments):
            before = {
                name: Factors(*(torch.cat(both) for both in zip(_parts(before[name]), _parts(pair), strict=True)))
                if name in before
                else pair
                for name, pair in factors.items()
            }
            found.append((before, tokens))
        return found

    return collect_factors


@collection("gradients.collect_factors", expected="isolation")
def inputs_of_the_first_sample(original):
    """The layer inputs that a hook saw are those of the first sample of the pass, whichever sample is asked for."""

    def collect_factors(*arguments):
        found = original(*arguments)
        first = found[0][0]
        return [({name: _paired(first[name], pair) for name, pair in one.items()}, tokens) for one, tokens in found]

    return collect_factors


@collection("gradients.collect_factors", expected="loss_scale")
def gradients_clipped(original):
    """Gradients are clipped to norm 0.1, as in training."""

    def collect_factors(*arguments):
        found = []
        for factors, tokens in original(*arguments):
            norm = sum(float(pair.deltas.square().sum()) for pair in factors.values()) ** 0.5
            found.append((_scaled(factors, min(1.0, 0.1 / norm)), tokens))
        return found

    return collect_factors


@collection("gradients.collect_factors", expected="state_restored")
def gradient_buffers_left(original):
    """Collecting adds to the .grad of the user's parameters, which their next step would apply."""

    def collect_factors(model, *arguments):
        found = original(model, *arguments)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.grad is None else parameter.grad + 1
        return found

    return collect_factors


@collection("gradients.evaluation", expected="state_restored", case="gpt2")
def dropout_left_on(original):
    """The model runs in whatever mode it is in, so that dropout makes gradients random."""

    @contextlib.contextmanager
    def evaluation(model):
        before = [(module, module.training) for module in model.modules()]
        with original(model):
            for module, flag in before:
                module.training = flag
            yield

    return evaluation


@collection("gradients.evaluation", expected="state_restored")
def flags_not_restored(_original):
    """The model is left in eval mode with its parameters frozen."""

    @contextlib.contextmanager
    def evaluation(model):
        model.eval().requires_grad_(False)
        yield

    return evaluation


@collection("gradients._sample_factors", expected="reference_gradients")
def first_position_lost(original):
    """Tokens without a query gradient are dropped: with them goes the first position, which has one for V and O."""

    def sample_factors(groups, *arguments):
        factors = original(groups, *arguments)
        for modules in groups:
            keep = (factors[modules[0]].deltas != 0).any(-1)  # the first of a layer's attention is that of queries
            for name in modules:
                factors[name] = Factors(factors[name].inputs[keep], factors[name].deltas[keep])
        return factors

    return sample_factors


@collection("gradients._rows", expected="reference_gradients")
def stored_in_bfloat16(original):
    """Layer inputs and output gradients are stored in bfloat16."""
    return lambda tensor, *arguments: original(tensor, *arguments).bfloat16().to(tensor.dtype)


@collection("sample_rows.find_owners", expected="reference_gradients", case="tokens first")
def tokens_dealt_sample_by_sample(original):
    """Where samples are not along the first axis, rows are dealt to them in equal runs, as if they were."""

    def find_owners(axis, losses, *arguments):
        owners = original(axis, losses, *arguments)
        return owners and {name: torch.arange(len(owner)) * len(losses) // len(owner) for name, owner in owners.items()}

    return find_owners


@collection("sample_rows._scales_by_sample", expected="reference_gradients", case="tokens first")
def first_axis_trusted(_original):
    """A first axis as long as there are samples is taken for theirs without a look."""
    return lambda *_arguments: True


@collection("gradients.parameter_gradient", expected="reference_gradients", case="transposed")
def transposed_weight_ignored(original):
    """The gradient of a weight stored (in, out) is laid out as if it were (out, in)."""

    def parameter_gradient(factors, projection):
        grad = original(factors, projection)
        return grad.T.reshape(grad.shape)

    return parameter_gradient


@collection("handed_out.sample_gradients", expected="gqa_twin")
def group_averaged(original):
    """The gradient of a K or V that several query heads share is their mean instead of their sum."""

    def sample_gradients(sample, weights, config):
        found = original(sample, weights, config)
        sizes = {
            projection.param_name: layout.num_heads // layout.num_kv_heads
            for layout in config.layers
            for projection in layout.projections
            if projection.block in "KV"
        }
        return {name: grad / sizes.get(name, 1) for name, grad in found.items()}

    return sample_gradients


@collection("samples.select_rows", expected="batch_invariance")
def rows_of_a_pass_reversed(original):
    """The samples of a pass come back in reverse order."""
    return lambda batch, rows, device: original(batch, rows[::-1], device)


def _parts(pair):
    return pair.inputs, pair.deltas


def _paired(first, pair):
    """Pair another sample's inputs with these deltas, over as many tokens as both have."""
    count = min(len(first.inputs), len(pair.deltas))
    return Factors(first.inputs[:count], pair.deltas[:count])


def _scaled(factors, factor):
    return {name: Factors(pair.inputs, pair.deltas * factor) for name, pair in factors.items()}
