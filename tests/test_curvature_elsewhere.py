"""Fisher diagonals, Fisher matrices and Kronecker factors beside those of Kronfluence and curvlinops.

Neither is a dependency: the comparisons run where the packages are installed (Kronfluence 1.0.1 and curvlinops 3.0.1 were
used) and say so where not. Scalings: Kronfluence sums over tokens and counts them; curvlinops with a mean over samples of a
loss of one label equals F, and its A is a mean over all tokens, so that layers whose tokens all reach the loss compare.
"""

import itertools

import pytest
import torch

import qkov
from qkov import curvature, kfac, scoring
from tests.builders import build_model
from validation import synthetic

NOT_INSTALLED = "{} is not installed; it is no dependency, and only compared with"
NUM_SAMPLES, LENGTH = 6, 4


def importable(name):
    """The package, or a skip that says why."""
    return pytest.importorskip(name, reason=NOT_INSTALLED.format(name))


def token_ids(length):
    return torch.randint(2, 11, (NUM_SAMPLES, length), generator=torch.Generator().manual_seed(1))


def factors_of(collector, layout, projection, unit):
    """Kronecker factors and gradients of a slice, every sample with the same weight, no normalisation by tokens."""
    options = scoring.ScoreOptions(variant="kfac", contribution_normalisation="none")
    pairs = []
    for one in collector.samples("a"):
        where = curvature.reached(one, layout, projection)
        pairs.append([part[where] for part in curvature.token_factors(one, projection, unit, options)])
    grads = torch.stack([(head.T @ other).flatten() for head, other in pairs])
    return kfac.kronecker_factors(pairs, [1 / NUM_SAMPLES] * NUM_SAMPLES), grads


def every_slice(layouts):
    return [
        (layout, projection, unit)
        for layout in layouts
        for projection in layout.projections
        for unit in range(projection.num_units)
    ]


def near(found, expected, bound):
    return (found - expected).abs().max() <= bound * expected.abs().max()


def kronfluence_factors(names, ids, strategy, folder):
    """Run Kronfluence on the model of ``build_model("qwen2")``; its factors as it saves them."""
    importable("kronfluence")
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.task import Task

    class Modelling(Task):
        def compute_train_loss(self, batch, model, sample=False):
            logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
            labels = batch["input_ids"][:, 1:]
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return names

        def get_attention_mask(self, batch):
            counted = torch.ones_like(batch["input_ids"])
            counted[:, -1] = 0  # the last token predicts nothing
            return counted

    wide = {
        f"{name}_dtype": torch.float64
        for name in (
            "activation_covariance", "gradient_covariance", "eigendecomposition", "lambda", "per_sample_gradient",
        )
    }  # fmt: skip
    task = Modelling()
    analyzer = Analyzer(
        "qkov", prepare_model(build_model("qwen2"), task), task, cpu=True, output_dir=str(folder), disable_tqdm=True
    )
    arguments = FactorArguments(strategy=strategy, use_empirical_fisher=True, **wide)
    data = [{"input_ids": row} for row in ids]
    analyzer.fit_all_factors("f", data, per_device_batch_size=3, factor_args=arguments)
    return analyzer.load_covariance_matrices("f") if strategy == "kfac" else analyzer.load_lambda_matrices("f")


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_factors_and_diagonal_are_those_of_kronfluence(tmp_path):
    importable("kronfluence")
    ids = token_ids(5)
    collector = qkov.FisherCollector(contribution_normalisation="none")
    collector.collect_fisher(build_model("qwen2"), {"input_ids": ids}, "a", progress=False)
    names = sorted({part.module_name for layout in collector.config.layers for part in layout.projections})
    covariance = kronfluence_factors(names, ids, "kfac", tmp_path / "kfac")
    diagonal = kronfluence_factors(names, ids, "diagonal", tmp_path / "diagonal")
    for layout, projection, unit in every_slice(collector.config.layers):
        name, (start, stop) = projection.module_name, projection.interval(unit)
        inputs, deltas = (covariance[f"{kind}_covariance"][name] for kind in ("activation", "gradient"))
        count = int(covariance["num_activation_covariance_processed"][name])
        width = projection.weight_shape[1]
        inputs = inputs[:width, :width]  # it appends the bias to the inputs
        own, other = (deltas, inputs) if projection.side == "output" else (inputs, deltas)
        found, _ = factors_of(collector, layout, projection, unit)
        assert count == NUM_SAMPLES * 4
        assert near(found.own, own[start:stop, start:stop] / NUM_SAMPLES, 1e-12)
        assert near(found.other, other / count, 1e-12)
        squares = diagonal["lambda_matrix"][name] / diagonal["num_lambda_processed"][name]
        cache = collector.contribution_cache["a"].values()
        assert near(sum(one[projection.param_name] for one in cache) / NUM_SAMPLES, squares[:, :width], 1e-12)


class LastPrediction(torch.nn.Module):
    """The logits of the label behind the last token: one term of the loss per sample, as curvlinops counts."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids).logits[:, -1]


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_matrices_are_those_of_curvlinops():
    curvlinops = importable("curvlinops")
    model = synthetic.SyntheticLM(
        synthetic.SyntheticConfig(
            num_layers=2, mlp_size=6, vocab_size=11, max_positions=12, num_heads=4, num_kv_heads=2, head_dim=2, v_head_dim=3,
            hidden_size=8, bias=False, rotary=True,
        )
    ).eval()  # fmt: skip
    ids = token_ids(LENGTH)
    labels = torch.where(torch.arange(LENGTH) == LENGTH - 1, ids, -100)
    collector = qkov.FisherCollector(contribution_normalisation="none")
    collector.collect_fisher(model, {"input_ids": ids, "labels": labels}, "a", progress=False)
    chances = LastPrediction(model)(ids[:, :-1]).softmax(-1).detach()
    of_class = {}  # gradients of every class, for the true Fisher
    for label in range(11):
        held = qkov.FisherCollector(contribution_normalisation="none")
        batch = {"input_ids": ids, "labels": labels.where(labels < 0, torch.tensor(label))}
        held.collect_fisher(model, batch, "a", progress=False)
        of_class[label] = held
    modules, data = dict(model.named_modules()), [(ids[:, :-1], ids[:, -1])]
    wrapped, loss = LastPrediction(model.requires_grad_(True)), torch.nn.CrossEntropyLoss()
    for layout, projection in itertools.product(collector.config.layers[:1], collector.config.layers[0].projections):
        weight = modules[projection.module_name].weight

        def dense(kind, weight=weight, **options):
            operator = getattr(curvlinops, f"{kind}LinearOperator")(
                wrapped, loss, [weight], data, check_deterministic=False, **options
            )
            return (operator @ torch.eye(operator.shape[1], dtype=torch.float64)).detach()

        kronecker = dense("KFAC", fisher_type="empirical", kfac_approx="expand")
        empirical, true = dense("EF"), dense("GGN")
        places = torch.arange(weight.numel()).reshape(weight.shape)
        for unit in range(projection.num_units):
            part = places[projection.slice_of(unit).index]
            part = (part if projection.head_axis == 0 else part.T).flatten()
            found, grads = factors_of(collector, layout, projection, unit)
            assert near(torch.kron(found.own, found.other), kronecker[part][:, part], 1e-10)
            assert near(grads.T @ grads / NUM_SAMPLES, empirical[part][:, part], 1e-10)
            expected = 0.0
            for label, held in of_class.items():
                rows = factors_of(held, layout, projection, unit)[1]
                expected = expected + (rows.T * chances[:, label]) @ rows / NUM_SAMPLES
            assert near(expected, true[part][:, part], 1e-10)
