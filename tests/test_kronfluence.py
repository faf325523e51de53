"""The Fisher diagonal against that of Kronfluence: per-sample gradients and their squares by other people's code.

Families whose feed-forward parts keep samples along the first axis: OPT's join all tokens into one, which Kronfluence
1.0.1 takes for as many samples. Conv1D is no layer it knows.
"""

import copy

import pytest
import torch

import qkov
from qkov import losses
from tests.builders import build_batch, build_model

pytest.importorskip("kronfluence", reason="kronfluence is no dependency of the tests; install 1.0.1 to compare")

LENGTHS = (5, 8, 3, 7)
# Both are float64 here; norm-wise, relative to the largest entry.
BOUND = 1e-12


def kronfluence_diagonal(model, batch, modules):
    """Sum of ``g^2`` over samples for each module's weight, as strategy "diagonal" fits its lambda matrices."""
    from kronfluence.analyzer import prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.factor.eigen import fit_lambda_matrices_with_loader
    from kronfluence.task import Task
    from kronfluence.utils.state import State

    class SummedLoss(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return losses.causal_lm_loss(model, batch)[0].sum()

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return modules

    task = SummedLoss()
    rows = [{name: value[row] for name, value in batch.items()} for row in range(len(batch["input_ids"]))]
    options = FactorArguments(
        strategy="diagonal",
        use_empirical_fisher=True,
        per_sample_gradient_dtype=torch.float64,
        lambda_dtype=torch.float64,
    )
    _, found = fit_lambda_matrices_with_loader(
        prepare_model(copy.deepcopy(model), task), State(cpu=True), task, torch.utils.data.DataLoader(rows, batch_size=2),
        options, disable_tqdm=True,
    )  # fmt: skip
    return found["lambda_matrix"]


@pytest.mark.filterwarnings("ignore")  # the other library's own
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_mean_of_squares_is_kronfluence_diagonal_over_samples(family, padding):
    model, batch = build_model(family), build_batch(LENGTHS, padding=padding)
    ours = qkov.collect_fisher_diagonal(model, batch, "a", contribution_normalisation="none", progress=False)
    theirs = kronfluence_diagonal(model, batch, [one.module_name for one in ours.weights])
    scale = max(float(one.max()) for one in ours.values.values())
    errors = []
    for one in ours.weights:
        # A bias is one more column there.
        expected = theirs[one.module_name][:, : one.weight_shape[1]] / len(LENGTHS)
        errors.append(float((ours.values[one.param_name] - expected).abs().max()) / scale)
    assert len(errors) == len(theirs) == len(ours.weights)
    assert max(errors) < BOUND
