"""How scores are formed and on which device: the options of the metric, each refused where it has no meaning."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import fisher, formula, full_fisher
from .errors import OptionError

TILINGS = ("fast", "fixed")


@dataclass(frozen=True)
class ScoreOptions:
    """How a score is formed; the fields are documented at ``QKOVInterferenceMetric``."""

    variant: str = "unsigned"
    fisher_pool: str = "A"
    fisher_source: str = "contributions"
    aggregate: str = "mean"
    normalize_gj: str = "none"
    contribution_normalisation: str = "tokens"
    include_bias: bool = False
    epsilon: float | None = None
    ridge_lambda: float | None = None
    ridge_lambda_rel: float | None = None
    ema_decay: float = fisher.EMA_DECAY
    tile_elements: int = 2**23
    tiling: str = "fast"
    sample_block: int | None = None
    stacked_bytes: int = 2**30
    reads: str = "kept"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.variant == "predicted":
            raise OptionError(
                "variant='predicted' depends on an optimiser and a step, which this metric does not know: use "
                "qkov.predict_change (slices, heads, layers, with intervals) or qkov.predict_pairs (a heatmap)."
            )
        for name, choices in (
            ("variant", formula.VARIANTS + formula.MATRIX_VARIANTS), ("fisher_pool", formula.FISHER_POOLS),
            ("fisher_source", fisher.FISHER_SOURCES), ("aggregate", formula.AGGREGATES),
            ("normalize_gj", formula.GRAD_NORMALISATIONS),
            ("contribution_normalisation", formula.NORMALISATIONS), ("tiling", TILINGS), ("reads", ("kept", "again")),
        ):  # fmt: skip
            formula.require_choice(name, getattr(self, name), choices)
        if self.normalize_gj != "none" and self.variant != "unsigned":
            raise OptionError(
                f"normalize_gj={self.normalize_gj!r} with variant={self.variant!r}: only 'unsigned' uses raw gradients of "
                "B next to contributions of A. Leave normalize_gj='none'; contribution_normalisation covers the others."
            )
        if self.ridge_lambda_rel is None:
            default = formula.MATRIX_RIDGE if self.weighs_by_matrix else formula.RELATIVE_RIDGE
            object.__setattr__(self, "ridge_lambda_rel", default)
        for name in ("epsilon", "ridge_lambda", "ridge_lambda_rel"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise OptionError(f"{name} is {value}; expected a finite number of at least 0.")
        if self.tile_elements < 1:
            raise OptionError(f"tile_elements is {self.tile_elements}; expected at least 1.")
        if self.sample_block is not None and self.sample_block < 1:
            raise OptionError(f"sample_block is {self.sample_block}; expected at least 1, or None for all samples.")
        if self.weighs_by_matrix:
            self._check_matrix()

    def _check_matrix(self) -> None:
        if self.fisher_source == "head":
            raise OptionError(
                f"fisher_source='head' with variant={self.variant!r}: one number per slice holds no matrix. Use "
                "'contributions' or 'ema'."
            )
        if self.epsilon is not None:
            raise OptionError(
                f"epsilon={self.epsilon} with variant={self.variant!r}: a floor under single parameters has no meaning for a "
                "matrix. Use ridge_lambda (absolute) or ridge_lambda_rel."
            )
        if self.ridge_lambda is None:
            full_fisher.checked_ridge(1.0, relative=self.ridge_lambda_rel)  # type: ignore[arg-type]  # units cancel; slices may ask for more
        elif self.ridge_lambda == 0:
            raise OptionError(
                f"ridge_lambda=0 with variant={self.variant!r}: the matrix is singular. Use ridge_lambda_rel=0.1, the default."
            )

    @property
    def weighs_by_matrix(self) -> bool:
        """Whether the variant weighs by the inverse of a matrix instead of dividing parameter by parameter."""
        return self.variant in formula.MATRIX_VARIANTS

    @property
    def absolute_damping(self) -> bool:
        """Whether the seeds' absolute constants are used instead of the relative ridge."""
        return self.epsilon is not None or self.ridge_lambda is not None


def checked_device(name: str | torch.device) -> str:
    """Return the name of a device that torch can use; "auto" takes CUDA where it is."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"computation_device={name!r} is not known; expected 'cpu', 'cuda', 'auto'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("computation_device='cuda', but torch finds no CUDA device. Use 'cpu' or 'auto'.")
    return str(device)
