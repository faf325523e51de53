"""The laws of the metric as functions that measure: on our models, in our tests, in the notebooks, and on yours.

Every ``check_<law>(case)`` returns a ``Measurement(error, bound, compared)``, or ``NotRun`` with the reason. One registry
feeds ``check_model``, the pytest decorator and the validation suite, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import (
    collection_laws,
    curvature_laws,
    fisher_laws,
    importance_laws,
    layout_laws,
    prediction_laws,
    result_laws,
    score_laws,
    store_laws,
)
from .case import Case
from .measurement import BOUNDS, Comparison, Measurement, NotRun
from .registry import CHECKS, CheckResult, run_check

if TYPE_CHECKING:
    import pytest
    from torch import nn

    from ..option_types import Batch, LossFunction


__all__ = [
    "BOUNDS", "CHECKS", "LAYOUT_PROOF", "Case", "CheckResult", "Comparison", "Measurement", "NotRun", "check_model",
    "parametrize_with_checks", "prove_layout", "run_check",
]  # fmt: skip

# The experiments that place every slice and tell the four blocks apart.
LAYOUT_PROOF = (
    "slices_tile", "output_columns", "head_rows", "query_position", "row_perturbation", "zeroed_weights",
)  # fmt: skip

for _module in (
    collection_laws,
    fisher_laws,
    score_laws,
    curvature_laws,
    layout_laws,
    result_laws,
    importance_laws,
    prediction_laws,
    store_laws,
):
    globals().update({f"check_{name}": law for name, law in CHECKS.items() if law.__module__ == _module.__name__})


def check_model(
    model: nn.Module,
    batch_a: Batch,
    batch_b: Batch,
    *,
    loss_fn: LossFunction | None = None,
    twin: Callable[[Any], nn.Module] | None = None,
    attention: str | None = None,
    checks: Iterable[str] | None = None,
    name: str = "model",
    progress: bool = True,
) -> list[CheckResult]:
    """Measure the laws on your own model.

    Every law collects and scores anew, some of them dozens of times, and the reference runs one sample at a time in
    float64: give a handful of short samples. The model is left as it was.

    Args:
        model: A model whose layout is known. batch_a, batch_b: Small batches, as for ``collect_fisher``.
        loss_fn: As for ``collect_fisher``. twin: Optional ``twin(model)`` with one K and V per query head.
        attention: Which kind of attention, in a model with several.
        checks: Names from ``CHECKS``; default all. name: For the report. progress: Show a bar on long work.

    Returns:
        A list of ``CheckResult``; ``status`` is "passed", "failed" or "not run" with a reason.

    Raises:
        OptionError: If a name is not a check.

    Example:
        >>> import torch, transformers, qkov
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> model = transformers.LlamaForCausalLM(config).double()
        >>> batch = {"input_ids": torch.arange(40).reshape(5, 8)}
        >>> [result.status for result in qkov.check_model(model, batch, batch, checks=["ids", "head_additivity"])]
        ['passed', 'passed']
    """
    from tqdm.auto import tqdm

    from ..errors import OptionError

    names = list(CHECKS) if checks is None else list(checks)
    unknown = [one for one in names if one not in CHECKS]
    if unknown:
        raise OptionError(f"checks {unknown} are not known; expected names from {sorted(CHECKS)}.")
    case = Case(name, model, batch_a, batch_b, loss_fn, twin, attention)
    return [run_check(one, case) for one in tqdm(names, desc="check", disable=not progress, delay=2)]


def prove_layout(
    model: nn.Module,
    batch: Batch,
    *,
    loss_fn: LossFunction | None = None,
    attention: str | None = None,
    name: str = "model",
    progress: bool = True,
) -> list[CheckResult]:
    """Show by experiment where the heads of a model are, without trusting the rules that found them.

    One head's way into O is left open and the others closed: which weights still have a gradient? One slice's weights,
    or its output at one position, are changed: which heads move? One block of a kv group is zeroed: which blocks fall
    silent? And the slices must cover every weight exactly once. On the first and the last layer, up to four heads each.

    Args:
        model: A model whose layout is found. batch: A few short samples. loss_fn: As for ``collect_fisher``.
        attention: Which kind of attention, in a model with several. name: For the report. progress: Show a bar.

    Returns:
        The ``CheckResult`` of each experiment in ``LAYOUT_PROOF``.

    Raises:
        LayoutError: If the layout is not found, an experiment contradicts it (named), or none could be made.
    """
    from ..errors import LayoutError
    from ..layout import QKOVConfig

    QKOVConfig.from_model(model, attention=attention)
    options: dict[str, Any] = {
        "loss_fn": loss_fn,
        "attention": attention,
        "checks": LAYOUT_PROOF,
        "name": name,
        "progress": progress,
    }
    results = check_model(model, batch, batch, **options)
    failed = [str(result) for result in results if result.status == "failed"]
    if failed:
        raise LayoutError(
            f"the layout that was found for {type(model).__name__} is not what the model computes: {'; '.join(failed)}. "
            "Register the right one with qkov.register_layout."
        )
    if not any(result.passed for result in results):
        reasons = "; ".join(sorted({result.reason for result in results}))
        raise LayoutError(f"no experiment could be made on {type(model).__name__}, so nothing is proved: {reasons}.")
    return results


def parametrize_with_checks(cases: Iterable[Case], checks: Iterable[str] | None = None) -> pytest.MarkDecorator:
    """Parametrise a pytest test over cases and checks, as ``(case, check)``.

    A case is a ``Case`` or a function that builds one, called when its tests run::

        @parametrize_with_checks([Case("mine", model, batch_a, batch_b)])
        def test_laws(case, check):
            assert run_check(check, case).status != "failed"

    Args:
        cases: Cases, or functions that build one.
        checks: Names from ``CHECKS``; default all.

    Returns:
        A decorator of a test function with the arguments ``case`` and ``check``.
    """
    import pytest

    names = list(CHECKS) if checks is None else list(checks)
    pairs = [
        pytest.param(case, name, id=f"{getattr(case, 'name', getattr(case, '__name__', 'case'))}-{name}")
        for case in cases
        for name in names
    ]
    return pytest.mark.parametrize(("case", "check"), pairs)
