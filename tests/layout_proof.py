"""An experiment that shows where the heads of an attention module lie, without asking the code that locates them.

Head h is what feeds columns ``[h * d_v, (h + 1) * d_v)`` of the INPUT of the output projection. Let only those
pass, read the output of that projection at one position, and backpropagate. Then

* exactly the slices of head h and of its kv head have gradients; all others are 0, not small;
* the gradient of Q is an outer product with what its projection reads at the position that is read, because only that
  position asks; the gradients of K and V mix what theirs read at all positions;
* without the value slice of its kv head the head emits 0: the gradients of Q, K and O vanish and V's does not;
* without its query slice all scores are 0: the gradient of K vanishes and V's does not;
* where a head's own key is narrower than its query, without that key the rows of Q that met it have no gradient, and the
  others, which meet a key that all heads share, still do.

The first statement places the slices, the others tell Q, K and V apart.
"""

from contextlib import contextmanager

import torch


def prove_layout(model, layout, inputs, *, num_heads, v_head_dim):
    """Assert that a layout is what the model computes; float64, eval mode, eager attention.

    Args:
        model: The whole model; it is called as ``model(**inputs)``.
        layout: The claim to test, one attention module.
        inputs: Keyword arguments of the model, one sample.
        num_heads, v_head_dim: What the configuration of this model says, not what the layout says.
    """
    for head in range(num_heads):
        columns = slice(head * v_head_dim, (head + 1) * v_head_dim)
        part = {block: layout.projection(block).slice_of(layout.unit(block, head)) for block in "QKVO"}

        grads, tokens = gradients(model, layout, columns, inputs)
        claimed = {name: torch.zeros_like(grad, dtype=torch.bool) for name, grad in grads.items()}
        for block, piece in part.items():
            claimed[piece.param_name][piece.index] = True
            if piece.bias_name is not None:
                claimed[piece.bias_name][piece.bias_index] = True
                # Softmax ignores a shift that all keys share: the bias of K may have no gradient.
                if block != "K":
                    assert bool((grads[piece.bias_name][piece.bias_index] != 0).all()), f"{block} {head}: bias"
            axis = 1 - layout.projection(block).head_axis
            alive = (grads[piece.param_name][piece.index] != 0).any(axis)
            assert bool(alive.all()), f"{block} {head}: {piece} holds what the head does not use"
        for name, mask in claimed.items():
            if name in layout_params(layout):
                assert not bool(grads[name][~mask].any()), f"head {head}: {name} moves outside of its slices"

        rest = {block: share_of_other_tokens(grads, layout, part, block, tokens[block]) for block in "QKV"}
        assert rest["Q"] < 1e-12 < 1e-6 < min(rest["K"], rest["V"]), f"head {head}: tokens read, {rest}"

        with zeroed(model, part["V"]):
            grads, _ = gradients(model, layout, columns, inputs)
            dead = {block: not bool(grads[piece.param_name][piece.index].any()) for block, piece in part.items()}
            assert dead == {"Q": True, "K": True, "V": False, "O": True}, f"head {head} without V: {dead}"
        with zeroed(model, part["Q"]):
            grads, _ = gradients(model, layout, columns, inputs)
            dead = {block: not bool(grads[piece.param_name][piece.index].any()) for block, piece in part.items()}
            assert dead == {"Q": False, "K": True, "V": False, "O": False}, f"head {head} without Q: {dead}"
        own = layout.projection("K").width
        if own < layout.projection("Q").width:
            with zeroed(model, part["K"]):
                grads, _ = gradients(model, layout, columns, inputs)
                moves = (grads[part["Q"].param_name][part["Q"].index] != 0).any(1 - layout.projection("Q").head_axis)
                met = [row >= own for row in range(len(moves))]
                assert moves.tolist() == met, f"head {head} without K: rows of Q {moves}"


def gradients(model, layout, columns, inputs):
    """Differentiate a random linear function of what one head adds at the last position.

    Returns:
        Gradients by parameter, and by block of Q, K and V what its projection reads at the last position.
    """
    tokens, outputs = {}, []

    def keep_columns(_, args):
        mask = torch.zeros(args[0].shape[-1], dtype=args[0].dtype)
        mask[columns] = 1
        return (args[0] * mask, *args[1:])

    reading = {block: model.get_submodule(layout.projection(block).module_name) for block in "QKV"}
    emitting = model.get_submodule(layout.projection("O").module_name)

    def keep_last(block, args):
        tokens[block] = args[0].detach().reshape(-1, args[0].shape[-1])[-1]

    handles = [
        *(
            one.register_forward_pre_hook(lambda _, args, block=block: keep_last(block, args))
            for block, one in reading.items()
        ),
        emitting.register_forward_pre_hook(keep_columns),
        emitting.register_forward_hook(lambda module, args, result: outputs.append(result)),
    ]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    read = outputs[0].reshape(-1, outputs[0].shape[-1])[-1]
    weights = torch.randn(read.shape, generator=torch.Generator().manual_seed(5), dtype=read.dtype)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(read @ weights, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True)), tokens


def layout_params(layout):
    """Names of all parameters in which a layout places heads."""
    names = set()
    for projection in layout.projections:
        names |= {projection.param_name, projection.bias_name}
    return names


def share_of_other_tokens(grads, layout, part, block, token):
    """Share of a slice's gradient, as a norm, that is no multiple of one input token."""
    grad = grads[part[block].param_name][part[block].index]
    if layout.projection(block).head_axis == 1:
        grad = grad.T  # the input features last
    along = token / token.norm()
    return float((grad - (grad @ along)[:, None] * along).norm() / grad.norm())


@contextmanager
def zeroed(model, piece):
    """Set a slice and its bias to zero for a while."""
    named = dict(model.named_parameters())
    parts = [named[piece.param_name].data[piece.index]]
    if piece.bias_name is not None:
        parts.append(named[piece.bias_name].data[piece.bias_index])
    kept = [part.clone() for part in parts]
    for part in parts:
        part.zero_()
    try:
        yield
    finally:
        for part, values in zip(parts, kept, strict=True):
            part.copy_(values)
