"""Clusters of samples whose gradients point the same way, and which clusters oppose each other: a description.

Clustering finds clusters in noise too, alike inside and opposed to each other, because that is what it looks for; so nothing
here has a p value. What belongs to the tasks is shown beside what does not: were task labels permuted inside every cluster,
the cosine between its A samples and B samples would on average be the mean over all its pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cosine_summary, errors, escaping

if TYPE_CHECKING:
    import pandas as pd

    from .option_types import SampleId


NOTE = (
    "A description without p values: clusters as tight, and as opposed, are found in noise. 'relabelled' is what 'across "
    "tasks' would be on average if task labels were permuted inside clusters."
)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SampleClusters:
    """What hierarchical clustering makes of the samples of both tasks.

    Attributes:
        members: ``(task, id)`` of the samples of each cluster; clusters in the order of their first member.
        cosine: Mean cosine between two clusters over all pairs, float64 ``[clusters, clusters]``; on the diagonal over pairs
            of different samples, NaN for a single one. It is also the mean of ``across_tasks`` over all permutations of task
            labels inside clusters.
        across_tasks: Mean cosine of A's samples in one cluster (row) with B's in another; NaN where there are none.
        left_out: Samples without a gradient.
        task_a: Name of task A.
    """

    members: tuple
    cosine: np.ndarray
    across_tasks: np.ndarray
    left_out: tuple
    task_a: str

    @property
    def opposed(self) -> tuple[tuple[int, int, float], ...]:
        """Pairs of clusters with a negative mean cosine, the most negative first: ``(cluster, cluster, cosine)``."""
        rows, columns = np.triu_indices(len(self.members), 1)
        values = self.cosine[rows, columns]
        order = [one for one in np.argsort(values, kind="stable") if values[one] < 0]
        return tuple((int(rows[one]), int(columns[one]), float(values[one])) for one in order)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas table with a row per ordered pair of clusters."""
        import pandas as pd

        rows, columns = (part.ravel() for part in np.indices(self.cosine.shape))
        counts = np.array([[sum(task == self.task_a for task, _ in one), len(one)] for one in self.members])
        return pd.DataFrame({
            "cluster": rows,
            "other": columns,
            "num_a": counts[rows, 0],
            "num_b": (counts[:, 1] - counts[:, 0])[columns],
            "cosine": self.cosine.ravel(),
            "across_tasks": self.across_tasks.ravel(),
            "relabelled": self.cosine.ravel(),
        })  # fmt: skip

    def __repr__(self) -> str:
        lines = []
        for number, samples in enumerate(self.members):
            num_a = sum(task == self.task_a for task, _ in samples)
            ids = ", ".join(repr(one) for _, one in samples[:5]) + (", ..." if len(samples) > 5 else "")
            lines.append(
                f"  cluster {number}: {num_a} of A, {len(samples) - num_a} of B, cosine inside "
                f"{self.cosine[number, number]:.3g} ({ids})"
            )
        for one, other, value in self.opposed[:3]:
            lines.append(f"  {one} against {other}: {value:.3g}")
        return escaping.for_terminal("<SampleClusters\n" + "\n".join([*lines, f"  {NOTE}"]) + ">")

    def _repr_html_(self) -> str:
        lines = "\n".join(map(escaping.for_html, repr(self).split("\n")))
        return escaping.html_block(f"<pre>{lines}</pre>")


def cluster_samples(
    cosines: np.ndarray, names: Sequence[tuple[SampleId, ...]], num_clusters: int = 4
) -> SampleClusters:
    """Cluster samples by average linkage on 1 - cosine.

    Args:
        cosines: ``[samples, samples]``; NaN for a sample without a gradient.
        names: ``(task, id)`` of every sample, those of task A first.
        num_clusters: At most this many.

    Raises:
        OptionError: If that is no number of clusters from 2 up to the number of samples.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial import distance

    known: Any = np.flatnonzero(~np.isnan(np.diag(cosines)))
    if not isinstance(num_clusters, int) or not 2 <= num_clusters <= len(known):
        raise errors.OptionError(
            f"num_clusters={num_clusters!r}; expected 2 to {len(known)}, the samples with a gradient."
        )
    kept = cosines[np.ix_(known, known)]
    apart = np.maximum(1 - kept, 0.0)
    np.fill_diagonal(apart, 0.0)
    tree = hierarchy.linkage(distance.squareform(apart, checks=False), "average")
    found = hierarchy.fcluster(tree, num_clusters, "maxclust")
    order = {label: place for place, label in enumerate(dict.fromkeys(found))}
    codes = np.array([order[label] for label in found])
    samples = [names[one] for one in known]
    is_a = np.array([task == names[0][0] for task, _ in samples])
    distinct = ~np.eye(len(known), dtype=bool)
    return SampleClusters(
        members=tuple(
            tuple(one for one, code in zip(samples, codes, strict=True) if code == number) for number in order.values()
        ),
        cosine=_means(np.where(distinct, kept, np.nan), codes, np.ones(len(known), bool), np.ones(len(known), bool)),
        across_tasks=_means(kept, codes, is_a, ~is_a),
        left_out=tuple(names[one] for one in np.flatnonzero(np.isnan(np.diag(cosines)))),  # type: ignore[call-overload]  # numpy integers are indices
        task_a=names[0][0],  # type: ignore[arg-type]  # the first name is that of the task
    )


def _means(values: np.ndarray, codes: np.ndarray, rows: Any, columns: Any) -> np.ndarray:
    """Average ``[samples, samples]`` over chosen rows of one cluster and chosen columns of another."""
    count = codes.max() + 1
    return np.array([
        [
            cosine_summary.mean_known(values[np.ix_(rows & (codes == one), columns & (codes == other))].reshape(-1, 1))[0]
            for other in range(count)
        ]
        for one in range(count)
    ])  # fmt: skip
