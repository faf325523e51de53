"""Independent units: how labels are read, and which are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkov.errors import StatisticsError
from qkov.statistics.clusters import read_clusters, require_disjoint

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=12).filter(lambda labels: len(set(labels)) > 1)


@given(labels=LABELS)
def test_labels_are_numbered_in_the_order_of_their_first_appearance(labels):
    found = read_clusters(labels, len(labels), "A")
    assert [found.labels[code] for code in found.codes] == labels
    assert list(dict.fromkeys(labels)) == list(found.labels)
    assert found.sizes.tolist() == [labels.count(label) for label in found.labels]
    assert found.number == len(set(labels))


@given(labels=LABELS)
def test_sums_and_means_are_those_of_each_cluster(labels):
    values = np.arange(2.0 * len(labels)).reshape(-1, 2) ** 2
    found = read_clusters(labels, len(labels), "A")
    for code, label in enumerate(found.labels):
        chosen = [value for value, other in zip(values, labels, strict=True) if other == label]
        np.testing.assert_allclose(found.sums(values)[code], np.sum(chosen, axis=0))
        np.testing.assert_allclose(found.means(values)[code], np.mean(chosen, axis=0))


@pytest.mark.parametrize("labels", ["iid", [1, 1, 2]])
def test_sums_of_whole_numbers_are_wide(labels):
    found = read_clusters(labels, 3, "A").sums(np.array([1, 2, 3]))
    assert found.dtype == np.float64
    assert found.sum() == 6


def test_iid_makes_every_sample_a_unit():
    found = read_clusters("iid", 5, "A")
    assert found.codes.tolist() == [0, 1, 2, 3, 4]
    assert found.labels is None
    assert found.means(np.arange(5.0)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda x: np.array(x, dtype=object)])
def test_labels_come_in_any_sequence(kind):
    assert read_clusters(kind(["x", "y", "x"]), 3, "A").labels == ("x", "y")


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (None, "clusters of task A are not known for every sample; expected one label per sample"),
        ([1, None, 2], "clusters of task A are not known for every sample"),
        ([1.0, float("nan"), 2.0], "clusters of task A are not known for every sample"),
        ("document", "clusters of task A are 'document'; expected one label per sample or the word 'iid'"),
        ([1, 2], "task A has 3 samples and 2 cluster labels; expected one each"),
        ([[1, 2, 3]], r"clusters of task A have shape \(1, 3\); expected one label per sample"),
        ({"a": 1}, r"clusters of task A have shape \(\); expected one label per sample"),
        ([1, 1, 1], "task A has 1 independent clusters; expected at least 2"),
    ],
)
def test_labels_that_do_not_say_what_is_independent_are_refused(clusters, message):
    with pytest.raises(StatisticsError, match=message):
        read_clusters(clusters, 3, "task A")


@pytest.mark.parametrize("clusters", ["iid", []])
def test_task_without_samples_has_no_clusters(clusters):
    with pytest.raises(StatisticsError, match="task A has 0 independent clusters; expected at least 2"):
        read_clusters(clusters, 0, "task A")


def test_more_clusters_can_be_demanded():
    with pytest.raises(StatisticsError, match="has 3 independent clusters; expected at least 4"):
        read_clusters("iid", 3, "task A", minimum=4)


def test_cluster_in_both_tasks_is_refused():
    a, b = read_clusters([1, 2, 3], 3, "A"), read_clusters([3, 4, 2], 3, "B")
    with pytest.raises(
        StatisticsError, match=r"2 clusters have samples in both A and B: 2, 3\. Exchanging labels would"
    ):
        require_disjoint(a, b, "A", "B")
    for number, shown in ((5, r"4\. Exch"), (6, r"4, \.\.\.\. Exch")):
        many = read_clusters(list(range(number)), number, "A")
        with pytest.raises(StatisticsError, match=rf"{number} clusters have .* 0, 1, 2, 3, {shown}"):
            require_disjoint(many, many, "A", "B")


def test_shared_labels_of_several_kinds_are_named_all_the_same():
    both = read_clusters([2, "b", 10, "a"], 4, "A")
    with pytest.raises(StatisticsError, match=r"^4 clusters have samples in both A and B: 10, 2, 'a', 'b'\."):
        require_disjoint(both, both, "A", "B")


def test_disjoint_clusters_and_independent_samples_pass():
    named, numbered, alone = (read_clusters(labels, 2, "a task") for labels in (["x", "y"], [1, 2], "iid"))
    # The same code numbers, 0 and 1, in all of them: only labels can be shared, and "iid" has none.
    assert [one.codes.tolist() for one in (named, numbered, alone)] == [[0, 1]] * 3
    for first, second in ((named, numbered), (named, alone), (alone, named), (alone, alone)):
        assert require_disjoint(first, second, "A", "B") is None
    with pytest.raises(StatisticsError, match="'x'"):
        require_disjoint(named, read_clusters(["x", "z"], 2, "B"), "A", "B")
