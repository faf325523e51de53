"""Properties of shards: gradients come back bit by bit whatever they are given, and no changed byte goes unnoticed."""

import contextlib
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from hypothesis import example
from hypothesis import strategies as st

from qkov import errors, gradients, shards
from qkov.gradients import Factors
from qkov.samples import Sample
from validation import strategies

from .properties import holds, noticing

HOSTILE = st.sampled_from(
    ("", "../../etc/passwd", "a/b\\c", "\0", "con", "x" * 300, "\n{", "\ud800", "é🙂", "<b>&", "=1+1", "\x1b[2J")
)
IDS = st.one_of(st.integers(), st.text(max_size=20), HOSTILE)
LABELS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=9),
    HOSTILE,
)
FILE = "00000001-aaaaaaaaaaaa.safetensors"


@st.composite
def samples(draw, **options):
    """A sample with its factors in some layout, and that layout."""
    _, config = draw(strategies.layouts(most_heads=4, most_width=3))
    found = draw(strategies.factors(config, **options))
    return Sample(draw(IDS), draw(LABELS), draw(st.integers(1, 2**40)), "ab" * 32, found), config


# A single number that is not beside the next in memory: contiguous to torch, and yet no view of its bytes.
_STRIDED = strategies.arranged(torch.ones(1, 1), "every other")
ONE_NUMBER = Sample(0, None, 1, "ab" * 32, {"m": Factors(_STRIDED, _STRIDED.clone())})


def place(task="a"):
    """A place in a collection."""
    return shards.Place(task, "loss", 3, 0, 1, FILE)


def bits(tensor):
    """Type, shape and every bit: signs of zeros and denormals too."""
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8).tolist(),
    )


def read_back(folder, entry, data):
    """Write a shard's bytes and open it, as a store does."""
    path = Path(folder) / "shards" / entry.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return shards.stored_sample(Path(folder), entry, "a")


def plain(function):
    """A wrong function in place of a right one."""
    return lambda _original: function


@holds(
    {
        "rounded": (
            "shards._stored",
            plain(lambda tensor, *_: tensor.bfloat16().clone(memory_format=torch.contiguous_format)),
        ),
        "zeros without sign": ("shards._stored", plain(lambda tensor, *_: (tensor + 0.0).contiguous())),
        "strides ignored": (
            "shards._stored",
            plain(
                lambda tensor, *_: (
                    tensor.as_strided(tensor.shape, (max(tensor.shape[1], 1), 1)).clone()
                    if tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.itemsize
                    else tensor.contiguous()
                )
            ),
        ),
        "one input for all": ("shards._sharing_inputs", lambda original: lambda factors: [list(factors)]),
    },
    drawn=samples(),
)
@example(drawn=(ONE_NUMBER, None))
def test_factors_come_back_bit_by_bit(drawn):
    sample, config = drawn
    entry, data = shards.encode(sample, place(), config, None, "factors")
    with tempfile.TemporaryDirectory() as folder:
        found = read_back(folder, entry, data)
        assert list(found.factors) == list(sample.factors)
        for name, pair in sample.factors.items():
            back = found.factors[name]
            assert back.bias is None
            assert bits(back.inputs) == bits(pair.inputs)
            assert bits(back.deltas) == bits(pair.deltas)
    assert len(data) == entry.size
    tensors = sum(len(group) + 1 for group in shards._sharing_inputs(sample.factors))
    assert len(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])) == tensors + 1


@holds(
    {
        "bias of the gradient's rows": (
            "shards.Factors",
            lambda original: (
                lambda inputs, deltas, bias=None: original(inputs, deltas, bias if bias is None else bias.flip(0) + 1)
            ),
        ),
        "not turned": (
            "shards.gradients.slice_gradient",
            lambda original: (
                lambda factors, projection, unit, out, *rest: (
                    original(factors, projection, unit, out, *rest) or out.neg_()
                )
            ),
        ),
    },
    drawn=samples(fewest_tokens=3, most_tokens=5, values=strategies.numbers(torch.float32, largest_exponent=6)),
)
def test_whole_gradients_give_the_same_slices(drawn):
    sample, config = drawn
    entry, data = shards.encode(sample, place(), config, None, "smaller")
    with tempfile.TemporaryDirectory() as folder:
        found = dict(read_back(folder, entry, data).factors)
    for projection in config.layers[0].projections:
        pair = sample.factors[projection.module_name]
        dtype = torch.promote_types(pair.deltas.dtype, torch.float32)
        outputs, inputs = strategies.module_sizes(projection)
        other = inputs if projection.side == "output" else outputs
        for unit in range(projection.num_units):
            outs = [torch.empty(projection.width, other, dtype=dtype) for _ in range(2)]
            sums = [torch.empty(projection.width, dtype=dtype) for _ in range(2)]
            for one, out, total in zip((sample.factors, found), outs, sums, strict=True):
                head, rest = gradients.slice_factors(one, projection, unit)
                out.copy_(head.T.to(dtype) @ rest.to(dtype))
                if projection.side == "output":
                    gradients.bias_gradient(one, projection, unit, total)
            size = (pair.inputs.double().abs().sum() * pair.deltas.double().abs().sum()).clamp_min(1e-30)
            assert bool(((outs[0] - outs[1]).double().abs() <= 1e-5 * size).all())
            if projection.side == "output":
                assert bool(
                    ((sums[0] - sums[1]).double().abs() <= 1e-5 * pair.deltas.double().abs().sum() + 1e-30).all()
                )


@holds(
    {
        "ids are texts": (
            "shards._described",
            lambda original: lambda sample: original(sample) | {"id": str(sample.sample_id)},
        ),
        "clusters are texts": (
            "shards._described",
            lambda original: lambda sample: original(sample) | {"cluster": str(sample.cluster)},
        ),
        "control characters dropped": (
            "shards._described",
            lambda original: (
                lambda sample: (
                    original(sample)
                    | {"id": sample.sample_id.strip() if isinstance(sample.sample_id, str) else sample.sample_id}
                )
            ),
        ),
    },
    sample_id=IDS,
    cluster=LABELS,
    task=st.text(max_size=9) | HOSTILE,
    tokens=st.integers(1, 2**62),
)
def test_ids_clusters_and_tasks_come_back_as_they_were(sample_id, cluster, task, tokens):
    factors = {"m": Factors(torch.ones(1, 1), torch.ones(1, 1))}
    sample = Sample(sample_id, cluster, tokens, "ab" * 32, factors)
    where = shards.Place(task, "loss", 3, 0, 1, shards.file_name(1, task, sample_id))
    entry, data = shards.encode(sample, where, None, None, "factors")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / entry.file
        path.write_bytes(data)
        found, read = shards.inspect(path)
    assert found == where
    assert read == entry
    for one, other in ((read.sample_id, sample_id), (read.cluster, cluster), (found.task, task)):
        assert (type(one), one) == (type(other), other)


@holds(
    {
        "the id as it is": ("shards.file_name", plain(lambda number, task, one: f"{number:08d}-{one}.safetensors")),
        "without the task": ("shards.file_name", lambda original: lambda number, task, one: original(number, "", one)),
        "as a text": ("shards.file_name", lambda original: lambda number, task, one: original(number, task, str(one))),
    },
    number=st.integers(0, 10**8 - 1),
    task=st.text(max_size=9) | HOSTILE,
    sample_id=IDS,
)
def test_no_name_of_a_user_becomes_a_path(number, task, sample_id):
    name = shards.file_name(number, task, sample_id)
    assert len(name) == 8 + 1 + 12 + len(".safetensors")
    assert name.isascii()
    assert set(name[9:21]) <= set("0123456789abcdef")
    assert int(name[:8]) == number
    others = shards.file_name(number, task + "x", sample_id), shards.file_name(number, task, f"{sample_id}x")
    assert name not in others
    if isinstance(sample_id, int):
        assert name != shards.file_name(number, task, str(sample_id))


@holds(
    {
        "only the tensors": ("shards._matches", plain(lambda *_: True)),
        "one hash for all": (
            "shards.hashlib",
            plain(SimpleNamespace(sha256=lambda data: SimpleNamespace(hexdigest=lambda: "0" * 64))),
        ),
    },
    drawn=samples(fewest_tokens=1, most_tokens=2),
    where=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
)
def test_any_changed_byte_of_a_shard_is_noticed(drawn, where, change):
    sample, config = drawn
    entry, data = shards.encode(sample, place(), config, None, "factors")
    damaged = bytearray(data)
    damaged[int(where * len(data))] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / entry.file
        path.write_bytes(data)
        assert shards.inspect(path) == (place(), entry)
        path.write_bytes(bytes(damaged))
        found = shards.inspect(path)
        # Only blanks behind the header's JSON may differ unnoticed by the shard alone; the journal holds its SHA-256.
        assert found is None or found[1].sha256 != entry.sha256
        if found is not None:
            assert damaged[8 + int.from_bytes(data[:8], "little") :] == data[8 + int.from_bytes(data[:8], "little") :]
        with contextlib.suppress(errors.StoreDamagedError):  # a read may refuse; what it gives must be right
            back = read_back(folder, entry, bytes(damaged))
            assert {
                name: (bits(back.factors[name].inputs), bits(back.factors[name].deltas)) for name in back.factors
            } == {name: (bits(pair.inputs), bits(pair.deltas)) for name, pair in sample.factors.items()}


test_wrong_implementation_is_noticed = noticing(__name__)
