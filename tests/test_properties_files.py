"""Properties of what is written: shards, journals and results come back bit by bit, whatever they are given, or not at all."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from qkov import canonical, durable, errors, gradients, journal, result_file, shards
from qkov.gradients import Factors
from qkov.samples import Sample
from validation import strategies

from .properties import holds, noticing

HOSTILE = st.sampled_from(("", "../../etc/passwd", "a/b\\c", "\0", "con", "x" * 300, "\n{", "\ud800", "é🙂", "<b>&", "=1+1", "\x1b[2J"))
IDS = st.one_of(st.integers(), st.text(max_size=20), HOSTILE)
LABELS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=9), HOSTILE)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FILE = "00000001-aaaaaaaaaaaa.safetensors"


@st.composite
def samples(draw, **options):
    """A sample with its factors in some layout, and that layout."""
    _, config = draw(strategies.layouts(most_heads=4, most_width=3))
    found = draw(strategies.factors(config, **options))
    return Sample(draw(IDS), draw(LABELS), draw(st.integers(1, 2**40)), "ab" * 32, found), config


def place(task="a"):
    """A place in a collection."""
    return shards.Place(task, "loss", 3, 0, 1, FILE)


def bits(tensor):
    """Type, shape and every bit: signs of zeros and denormals too."""
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


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
        "rounded": ("shards._stored", plain(lambda tensor, *_: tensor.to(torch.bfloat16).contiguous().clone())),
        "zeros without sign": ("shards._stored", plain(lambda tensor, *_: (tensor + 0.0).contiguous())),
        "strides ignored": ("shards._stored", plain(
            lambda tensor, *_: tensor.as_strided(tensor.shape, (max(tensor.shape[1], 1), 1)).clone()
            if tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.itemsize else tensor.contiguous())),
        "one input for all": ("shards._sharing_inputs", lambda original: lambda factors: [list(factors)]),
    },
    drawn=samples(),
)  # fmt: skip
def test_factors_come_back_bit_by_bit(drawn):
    sample, config = drawn
    entry, data = shards.encode(sample, place(), config, None, "factors")
    with tempfile.TemporaryDirectory() as folder:
        found = read_back(folder, entry, data)
        assert list(found.factors) == sorted(sample.factors)
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
        "bias of the gradient's rows": ("shards.Factors", lambda original: lambda inputs, deltas, bias=None:
                                        original(inputs, deltas, bias if bias is None else bias.flip(0) + 1)),
        "not turned": ("shards.gradients.slice_gradient", lambda original: lambda factors, projection, unit, out, *rest:
                       original(factors, projection, unit, out, *rest) or out.neg_()),
    },
    drawn=samples(fewest_tokens=3, most_tokens=5, values=strategies.numbers(torch.float32, largest_exponent=6)),
)  # fmt: skip
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
                assert bool(((sums[0] - sums[1]).double().abs() <= 1e-5 * pair.deltas.double().abs().sum() + 1e-30).all())


def is_storable(sample):
    """Whether its id and cluster can be written as UTF-8."""
    return not any(isinstance(one, str) and "\ud800" in one for one in (sample.sample_id, sample.cluster))


@holds(
    {
        "ids are texts": ("shards._described", lambda original: lambda sample: original(sample) | {"id": str(sample.sample_id)}),
        "clusters are texts": ("shards._described", lambda original: lambda sample: original(sample) | {"cluster": str(sample.cluster)}),
        "control characters dropped": ("shards._described", lambda original: lambda sample: original(sample) | {
            "id": sample.sample_id.strip() if isinstance(sample.sample_id, str) else sample.sample_id}),
    },
    sample_id=IDS,
    cluster=LABELS,
    task=st.text(max_size=9) | HOSTILE,
    tokens=st.integers(1, 2**62),
)  # fmt: skip
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
        "checked by their size": ("shards.zlib.crc32", plain(lambda data: len(bytes(data)))),
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
        with contextlib_suppress():
            back = read_back(folder, entry, bytes(damaged))
            assert {name: (bits(back.factors[name].inputs), bits(back.factors[name].deltas)) for name in back.factors} == {
                name: (bits(pair.inputs), bits(pair.deltas)) for name, pair in sample.factors.items()
            }


def contextlib_suppress():
    """A read may refuse; what it gives must be right."""
    import contextlib

    return contextlib.suppress(errors.StoreDamagedError)


@st.composite
def records(draw):
    """Records of a journal, numbered."""
    bodies = draw(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), min_size=1, max_size=4))
    return [body | {"n": number} for number, body in enumerate(bodies)]


@holds(
    {
        "ascii only": ("journal.canonical_json", plain(lambda value: json.dumps(value, sort_keys=True).replace("\\u", "\\\\u"))),
        "numbers as floats": ("journal.json.loads", lambda original: lambda text: original(text, parse_int=float)),
    },
    written=records(),
)
def test_journal_says_what_was_written(written):
    data = b"".join(map(journal.line, written))
    found = journal.parse(data)
    assert found == journal.Journal(tuple(written), len(data), 0, ())
    assert [list(map(type, one.values())) for one in found.records] == [
        [type(one[name]) for name in sorted(one)] for one in written
    ]
    assert data.count(b"\n") == len(written)


@holds(
    {
        "without a checksum": ("journal.zlib.crc32", plain(lambda data: 0)),
        "bad lines are skipped": ("journal.Journal", lambda original: lambda records, size, tail, damaged:
                                  original(records, size + tail, 0, ())),
    },
    written=records(),
    where=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
)  # fmt: skip
def test_any_changed_byte_of_a_journal_is_noticed(written, where, change):
    data = bytearray(b"".join(map(journal.line, written)))
    data[int(where * len(data))] ^= change
    found = journal.parse(bytes(data))
    assert found.damaged or found.tail
    assert all(one in written for one in found.records)
    if not found.damaged:
        assert list(found.records) == written[: len(found.records)]
    assert found.size + found.tail == len(data)


@holds(
    {
        "half a line counts": ("journal._record", lambda original: lambda raw: original(raw.rstrip(b"\n") + b"\n")),
        "a torn end is damage": ("journal.Journal", lambda original: lambda records, size, tail, damaged: original(
            records, size, tail, damaged or (("torn",) if tail else ()))),
    },
    written=records(),
    where=st.floats(0, 1),
    zeros=st.integers(0, 40),
)  # fmt: skip
def test_torn_end_of_a_journal_is_a_tail_and_no_damage(written, where, zeros):
    lines = list(map(journal.line, written))
    data = b"".join(lines)
    length = round(where * len(data))
    found = journal.parse(data[:length] + b"\0" * zeros)
    ends = np.cumsum([0, *map(len, lines)])
    whole = int((ends <= length).sum()) - 1
    assert found.records == tuple(written[:whole])
    assert (found.size, found.tail, found.damaged) == (ends[whole], length - ends[whole] + zeros, ())


@holds(
    {"in the order of insertion": ("canonical.json.dumps", lambda original: lambda value, **options: original(
        value, **(options | {"sort_keys": False})))},
    value=st.dictionaries(st.text(max_size=4), JSON, min_size=2, max_size=4),
)  # fmt: skip
def test_canonical_json_depends_on_the_value_alone(value):
    text = canonical.canonical_json(value)
    assert text == canonical.canonical_json(dict(reversed(value.items())))
    assert json.loads(text) == value
    assert text.isascii()
    assert canonical.canonical_json(json.loads(text)) == text


@st.composite
def results(draw):
    """Content and arrays of a result file."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(("float64", "float32", "int64", "bool", "uint8")))
    pool = [0.0, -0.0, 5e-324, 1.7e308, -1.5, np.nan, np.inf] if dtype == "float64" else [0, 1, 1, 0, 1]
    values = np.resize(np.array(draw(st.permutations(pool))), shape).astype(dtype)
    order = draw(st.sampled_from("CF"))
    return draw(st.dictionaries(st.text(max_size=4), JSON, max_size=3)), {"x": np.asarray(values, order=order), "y": values[..., :0] if shape else values}


KIND = {"format_name": "kind", "format_version": 1}


@holds(
    {
        "arrays as float32": ("result_file.np.ascontiguousarray", plain(lambda array: np.array(array, dtype=np.float32, order="C"))),
        "content as text": ("result_file._description", lambda original: lambda path, text: original(path, text) | {"content": text}),
    },
    result=results(),
)
def test_results_come_back_bit_by_bit(result):
    content, arrays = result
    with tempfile.TemporaryDirectory() as folder:
        path = result_file.write(Path(folder) / "x", content, arrays, **KIND)
        found, back = result_file.read(path, **KIND)
        again = result_file.write(Path(folder) / "y", dict(reversed(content.items())), dict(reversed(arrays.items())), **KIND)
        assert path.read_bytes() == again.read_bytes()
    assert found == content
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


@holds(
    {
        "shapes are not hashed": ("result_file.digest", plain(lambda content, arrays: _digest(content, [
            array.tobytes().hex() for _, array in sorted(arrays.items())]))),
        "values are rounded": ("result_file.digest", plain(lambda content, arrays: _digest(content, [
            [name, str(array.dtype), array.shape, array.astype(np.float16).tolist()] for name, array in sorted(arrays.items())]))),
    },
    values=st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4),
    which=st.integers(0, 3),
)  # fmt: skip
def test_digest_sees_every_bit_and_shape(values, which):
    array = np.array(values)
    base = result_file.digest({"a": 1}, {"x": array})
    moved = array.copy()
    moved[which] = np.nextafter(moved[which], np.inf)
    others = [
        result_file.digest({"a": 1}, {"x": moved}),
        result_file.digest({"a": 2}, {"x": array}),
        result_file.digest({"a": 1}, {"y": array}),
        result_file.digest({"a": 1}, {"x": array.reshape(2, 2)}),
        result_file.digest({"a": 1}, {"x": array.view(np.int64)}),
    ]
    assert len({base, *others}) == 6
    assert base == result_file.digest({"a": 1}, {"x": np.concatenate([array, array])[:4]})


def _digest(content, arrays):
    return result_file.hashlib.sha256(canonical.canonical_json([content, repr(arrays)]).encode()).hexdigest()


@holds(
    {
        "the first bytes": ("durable.read_range", lambda original: lambda path, start, size: original(path, 0, size)),
        "one short": ("durable.read_range", lambda original: lambda path, start, size: original(path, start, max(size - 1, 0))),
    },
    data=st.binary(max_size=64),
    start=st.integers(0, 70),
    size=st.integers(0, 70),
)  # fmt: skip
def test_range_of_a_file_is_that_of_its_bytes(data, start, size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        durable.write_file(path, [data[: len(data) // 2], data[len(data) // 2 :]])
        assert path.read_bytes() == data
        assert [one.name for one in path.parent.iterdir()] == ["x"]
        expected = io.BytesIO(data)
        expected.seek(start)
        assert bytes(durable.read_range(path, start, size)) == expected.read(size)


test_wrong_implementation_is_noticed = noticing(__name__)
