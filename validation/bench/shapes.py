"""Models of known shapes with random weights, batches of random tokens, and samples of random factors."""

from dataclasses import dataclass

import torch

from qkov import FisherCollector, QKOVConfig, gradients, samples


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run; the defaults are those of GPT-2 small and of the goals.

    Attributes:
        square: Edge of the square product. repeats: Rounds. hidden, heads, layers, vocabulary: Of GPT-2 small.
        cells: ``(n, T)`` of the scoring rate. short: Those of its second goal. by_n, by_t: Those of the growth.
    """

    square: int = 2048
    repeats: int = 3
    hidden: int = 768
    heads: int = 12
    layers: int = 12
    vocabulary: int = 50_257
    tokens: int = 128
    cells: tuple = ((50, 128), (100, 128), (200, 128), (100, 256), (100, 512))
    short: tuple = ((50, 32), (50, 64))
    by_n: tuple = ((25, 128), (50, 128), (100, 128), (200, 128))
    by_t: tuple = ((100, 32), (100, 64), (100, 128), (100, 256), (100, 512))
    samples: int = 50
    few_layers: int = 2
    collected: int = 12
    pairs: int = 60
    oracle_samples: int = 12
    llama_hidden: int = 512
    llama_layers: int = 4
    slices: int = 576
    permutations: int = 10_000
    quick: bool = False


FULL = Sizes()
QUICK = Sizes(
    square=128, repeats=3, hidden=48, heads=3, layers=2, vocabulary=60, tokens=12,
    cells=((6, 16), (8, 16)), short=((6, 8),), by_n=((4, 16), (8, 16)), by_t=((6, 8), (6, 16)),
    samples=5, collected=3, pairs=4, oracle_samples=3, llama_hidden=48, llama_layers=1, slices=2, permutations=60,
    quick=True,
)  # fmt: skip


def gpt2(sizes, *, layers=None, vocabulary=None, seed=0, attention="sdpa"):
    """GPT-2 with random weights, in eval mode."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocabulary or sizes.vocabulary, n_embd=sizes.hidden, n_layer=layers or sizes.layers,
        n_head=sizes.heads, n_positions=512, use_cache=False, bos_token_id=1, eos_token_id=1,
        attn_implementation=attention,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config).eval()


def scaled_vocabulary(sizes, layers):
    """So many tokens that the output layer keeps its share of the work when there are fewer layers."""
    return max(16, sizes.vocabulary * layers // sizes.layers)


def llama(sizes, *, vocabulary=8000, seed=0):
    """Llama with four query heads to a kv head and random weights, in eval mode."""
    import transformers

    hidden = sizes.llama_hidden
    config = transformers.LlamaConfig(
        vocab_size=60 if sizes.quick else vocabulary, hidden_size=hidden, intermediate_size=int(hidden * 2.75),
        num_hidden_layers=sizes.llama_layers, num_attention_heads=8, num_key_value_heads=2, use_cache=False,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config).eval()


def tokens(num_samples, length, vocabulary, seed):
    """A batch of random tokens without padding."""
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(2, vocabulary, (num_samples, length), generator=generator)}


def slice_parameters(config, layers=None):
    """Number of parameters that are scored, K and V once per kv head."""
    chosen = config.layers if layers is None else [config.layer(one) for one in layers]
    return sum(
        projection.num_units * projection.width * other_width(projection)
        for layout in chosen
        for projection in layout.projections
    )


def other_width(projection):
    """Width of a slice across the head."""
    rows, columns = projection.weight_shape
    return columns if projection.head_axis == 0 else rows


def scoring_operations(parameters, n_a, n_b, length):
    """Operations of materialising slices and of scoring all pairs: ``2 T K (n_a + n_b) + 2 K n_a n_b``."""
    return 2.0 * length * parameters * (n_a + n_b) + 2.0 * parameters * n_a * n_b


def layout_of(build, sizes, **options):
    """The layout of a model that is dropped again; few tokens of vocabulary are enough for it."""
    return QKOVConfig.from_model(build(sizes, vocabulary=16, **options))


class RandomFactors:
    """Random factors of one pool, cut into samples of any length: ``T n_a + T n_b`` tokens of it at most."""

    def __init__(self, config, num_tokens, *, seed=0, device="cpu", dtype=torch.float32):
        self.config, self.num_tokens = config, num_tokens
        generator = torch.Generator(device=device).manual_seed(seed)
        self.pools = {}
        for layout in config.layers:
            shared = {}  # Q, K and V read one input
            for projection in layout.projections:
                if projection.module_name in self.pools:
                    continue
                d_in, d_out = module_widths(config, projection.module_name)
                made = [
                    torch.randn(num_tokens, width, generator=generator, device=device, dtype=dtype)
                    for width in ((d_out,) if (projection.side, d_in) in shared else (d_out, d_in))
                ]
                if projection.side == "output":
                    inputs = shared.setdefault((projection.side, d_in), made[-1])
                else:
                    inputs = made[-1]
                self.pools[projection.module_name] = inputs, made[0]

    def collector(self, n_a, n_b, length):
        """A collector that holds tasks "a" and "b" of such samples, as if collected."""
        if (n_a + n_b) * length > self.num_tokens:
            raise ValueError(f"{n_a + n_b} samples of {length} tokens; the pool holds {self.num_tokens} tokens.")
        collector = FisherCollector()
        collector.config = self.config
        collector.model_fingerprint = "random factors"
        for task, first, count in (("a", 0, n_a), ("b", n_a, n_b)):
            members = [self._sample(row, (first + row) * length, length) for row in range(count)]
            collector._tasks[task] = {one.sample_id: one for one in members}
            collector._skipped[task] = {}
        return collector

    def _sample(self, sample_id, start, length):
        factors = {
            name: gradients.Factors(inputs[start : start + length], deltas[start : start + length])
            for name, (inputs, deltas) in self.pools.items()
        }
        return samples.Sample(sample_id, None, length - 1, f"{start} {length}", factors)


def module_widths(config, module_name):
    """``(d_in, d_out)`` of a projection module: what reads it whole, and the end of its last head."""
    d_in = d_out = 0
    for layout in config.layers:
        for projection in layout.projections:
            if projection.module_name == module_name:
                ends = max(projection.interval(unit)[1] for unit in range(projection.num_units))
                other = other_width(projection)
                d_in = max(d_in, other if projection.side == "output" else ends)
                d_out = max(d_out, ends if projection.side == "output" else other)
    return d_in, d_out
