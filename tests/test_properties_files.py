"""Properties of what is written: journals and results come back bit by bit, whatever they are given, or not at all."""

import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import example
from hypothesis import strategies as st

from qkov import canonical, durable, journal, result_file

from .properties import holds, noticing

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def plain(function):
    """A wrong function in place of a right one."""
    return lambda _original: function


@st.composite
def records(draw):
    """Records of a journal, numbered."""
    bodies = draw(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), min_size=1, max_size=4))
    return [body | {"n": number} for number, body in enumerate(bodies)]


@holds(
    {
        "ascii only": (
            "journal.canonical_json",
            plain(lambda value: json.dumps(value, sort_keys=True).replace("\\u", "\\\\u")),
        ),
        "numbers as texts": (
            "journal.json",
            lambda original: SimpleNamespace(
                loads=lambda text: {
                    name: value if name == "n" else str(value) for name, value in original.loads(text).items()
                }
            ),
        ),
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
        "without a checksum": ("journal.zlib", plain(SimpleNamespace(crc32=lambda data: 0))),
        "bad lines are skipped": (
            "journal.Journal",
            lambda original: lambda records, size, tail, damaged: original(records, size + tail, 0, ()),
        ),
    },
    written=records(),
    where=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
)
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
        "a torn end is damage": (
            "journal.Journal",
            lambda original: (
                lambda records, size, tail, damaged: original(
                    records, size, tail, damaged or (("torn",) if tail else ())
                )
            ),
        ),
    },
    written=records(),
    where=st.floats(0, 1),
    at_an_end=st.booleans(),
    back=st.integers(0, 2),
    zeros=st.sampled_from((0, 0, 1, 40)),
)
def test_torn_end_of_a_journal_is_a_tail_and_no_damage(written, where, at_an_end, back, zeros):
    lines = list(map(journal.line, written))
    data = b"".join(lines)
    ends = np.cumsum([0, *map(len, lines)])
    length = max(int(ends[round(where * len(lines))]) - back, 0) if at_an_end else round(where * len(data))
    found = journal.parse(data[:length] + b"\0" * zeros)
    whole = int((ends <= length).sum()) - 1
    assert found.records == tuple(written[:whole])
    assert (found.size, found.tail, found.damaged) == (ends[whole], length - ends[whole] + zeros, ())


@holds(
    {
        "in the order of insertion": (
            "canonical.json",
            lambda original: SimpleNamespace(
                dumps=lambda value, **options: original.dumps(value, **(options | {"sort_keys": False}))
            ),
        )
    },
    value=st.dictionaries(st.text(max_size=4), JSON, min_size=2, max_size=4),
)
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
    return draw(st.dictionaries(st.text(max_size=4), JSON, max_size=3)), {
        "x": np.asarray(values, order=order),
        "y": values[..., :0] if shape else values,
    }


KIND = {"format_name": "kind", "format_version": 1}


@holds(
    {
        "arrays as float32": (
            "result_file.write",
            lambda original: (
                lambda path, content, arrays, **kind: original(
                    path, content, {name: array.astype(np.float32) for name, array in arrays.items()}, **kind
                )
            ),
        ),
        "single numbers as rows": (
            "result_file.write",
            lambda original: (
                lambda path, content, arrays, **kind: original(
                    path, content, {name: np.ascontiguousarray(array) for name, array in arrays.items()}, **kind
                )
            ),
        ),
    },
    result=results(),
)
@example(result=({}, {"x": np.array(0.0), "y": np.array(-0.0, dtype=np.float32)}))
def test_results_come_back_bit_by_bit(result):
    content, arrays = result
    with tempfile.TemporaryDirectory() as folder:
        path = result_file.write(Path(folder) / "x", content, arrays, **KIND)
        found, back = result_file.read(path, **KIND)
        again = result_file.write(
            Path(folder) / "y", dict(reversed(content.items())), dict(reversed(arrays.items())), **KIND
        )
        assert path.read_bytes() == again.read_bytes()
    assert found == content
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


@holds(
    {
        "shapes are not hashed": (
            "result_file.digest",
            plain(
                lambda content, arrays: _digest(content, [array.tobytes().hex() for _, array in sorted(arrays.items())])
            ),
        ),
        "values are rounded": (
            "result_file.digest",
            plain(
                lambda content, arrays: _digest(
                    content,
                    [
                        [name, str(array.dtype), array.shape, array.astype(np.float16).tolist()]
                        for name, array in sorted(arrays.items())
                    ],
                )
            ),
        ),
    },
    values=st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4),
    which=st.integers(0, 3),
)
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
        "one short": (
            "durable.read_range",
            lambda original: lambda path, start, size: original(path, start, max(size - 1, 0)),
        ),
    },
    data=st.binary(max_size=64),
    start=st.integers(0, 70),
    size=st.integers(0, 70),
)
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
