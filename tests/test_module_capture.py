"""Modules whose gradient could not be rebuilt from what they read are refused."""

import pytest
import torch

from qkov import losses, reference
from qkov.errors import ModuleReuseError, PrecisionError
from tests.builders import build_batch, build_model, collect, gradient_error, loss_of
from validation.architectures import ARCHITECTURES, build
from validation.proven import output_loss

FLOAT64_BOUND = 1e-11


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_float16_is_refused(family):
    with pytest.raises(PrecisionError, match=r"runs in float16.*float32 or bfloat16"):
        collect(build_model(family, dtype=torch.float16), build_batch((4, 5)), loss_fn=loss_of(family))


def test_model_called_twice_is_refused():
    def twice(model, batch):
        return losses.causal_lm_loss(model, batch)[0] + losses.causal_lm_loss(model, batch)[0]

    with pytest.raises(ModuleReuseError, match=r"'transformer.h.0.attn.c_attn' ran 2 times in one forward pass"):
        collect(build_model("gpt2"), build_batch((4, 5)), loss_fn=twice)


def test_layer_called_twice_is_refused():
    model = build_model("llama")
    attention = model.model.layers[1].self_attn

    def call_once_more(module, args, kwargs):
        attention.o_proj(kwargs["hidden_states"])

    attention.register_forward_pre_hook(call_once_more, with_kwargs=True)
    with pytest.raises(ModuleReuseError, match=r"'model.layers.1.self_attn.o_proj' ran 2 times"):
        collect(model, build_batch((4, 5)))


def test_projection_that_does_not_run_is_refused():
    model = build_model("llama")
    model.model.layers[1].forward = lambda hidden_states, *args, **kwargs: hidden_states
    with pytest.raises(ModuleReuseError, match=r"'model.layers.1.self_attn.\w+' ran 0 times"):
        collect(model, build_batch((4, 5)))


def test_input_changed_in_place_is_refused():
    model = build_model("gpt2")

    def change_input(module, args, output):
        args[0].mul_(2)

    model.transformer.h[0].attn.register_forward_hook(change_input)  # the same tensor, after c_attn ran
    with pytest.raises(
        ModuleReuseError, match=r"input of projection 'transformer.h.0.attn.c_attn' was changed in place"
    ):
        collect(model, build_batch((4, 5)))


def test_output_changed_in_place_agrees_with_the_reference():
    model, batch = build(ARCHITECTURES["esmfold-start"])  # divides its queries in place, through a view
    expected, _ = reference.sample_gradients(model, batch, output_loss)
    assert gradient_error(collect(model, batch, loss_fn=output_loss), "a", expected) < FLOAT64_BOUND
