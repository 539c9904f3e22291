"""Do two systems differ by more than chance? Approximate randomization on documents."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy

from . import require

Counts: TypeAlias = Sequence[Sequence[int]]
"""For each document predicted, right, gold, found, as in `scorers.DocumentCounts`."""


class Difference(NamedTuple):
    """How two systems compare.

    f (float): F1 of the first minus that of the second, -1 to 1.
    p (float): Probability of such a difference or a larger one, in either direction, if it didn't matter
        which system a document's predictions come from; 0-1.
    """

    f: float
    p: float


def compare_f1(
    first: Sequence[Counts], second: Sequence[Counts], *, resamples: int = 9999, seed: int = 0
) -> Difference:
    """Compare two systems on the same documents by approximate randomization (Noreen 1989; Yeh 2000): what
    both have answered for a document is exchanged or not, at random, again and again.

    With several runs (seeds) of a system, a document's counts of all runs belong together and are exchanged
    together, so that the documents are the units: this says whether the difference would hold on other
    documents, for these trained models. It does not say whether other seeds would show it.

    first, second (Sequence[Counts]): Of each run of a system, the counts of each document.
    resamples (int): How often everything is exchanged at random. The smallest p is 1 / (resamples + 1).
    RETURNS (Difference): Of the F1 of the counts of all runs together.
    RAISES (ValueError): Not the same documents, or not the same number of runs.
    RAISES (MissingExtraError): scipy is not installed.
    """
    a, b = _add_runs(first), _add_runs(second)
    if len(first) != len(second) or a.shape != b.shape:
        raise ValueError(
            "Systems are compared on the same documents and by the same number of runs; got "
            f"{len(first)} and {len(second)} runs of {len(a)} and {len(b)} documents."
        )
    if (a[:, 2] != b[:, 2]).any():
        raise ValueError("The documents differ: they don't have the same numbers of gold labels.")
    difference = float(_f1(a.sum(0)) - _f1(b.sum(0)))
    same = (a == b).all(1)
    if (~same).sum() < 2:  # exchanged, one document gives the same difference with the other sign
        return Difference(difference, 1.0)
    require("The significance test", "scipy", "analysis", "scipy.stats")
    from scipy.stats import permutation_test

    # A document with the same counts in both makes no difference, exchanged or not.
    rest, n = a[same].sum(0), int((~same).sum())
    table = numpy.concatenate([a[~same], b[~same]])

    def statistic(x: Any, y: Any, axis: int) -> Any:
        # scipy exchanges numbers, so it gets those of rows. Rows have their counts in a new last dimension.
        first, second = (table[i.astype("int64")].sum(axis % i.ndim) + rest for i in (x, y))
        return _f1(first) - _f1(second)

    result = permutation_test(
        (numpy.arange(n), numpy.arange(n, 2 * n)),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        # Memory: a batch holds its documents' four counts for both systems.
        batch=max(1, 2_000_000 // (8 * n)),
        random_state=numpy.random.default_rng(seed),
    )
    return Difference(difference, float(result.pvalue))


def _add_runs(runs: Sequence[Counts]) -> Any:
    """Counts of each document, over all runs, (documents, 4)."""
    if not runs:
        raise ValueError("There is no run to compare.")
    lengths = {len(run) for run in runs}
    if len(lengths) > 1:
        raise ValueError(f"The runs have different numbers of documents: {sorted(lengths)}.")
    return numpy.asarray([list(run) for run in runs], dtype="int64").reshape(len(runs), -1, 4).sum(0)


def _f1(counts: Any) -> Any:
    """F1 of counts in the last dimension, 0 where there is nothing to divide by."""
    predicted, right, gold, found = (counts[..., i] for i in range(4))
    p = right / numpy.maximum(predicted, 1)
    r = found / numpy.maximum(gold, 1)
    return 2 * p * r / numpy.maximum(p + r, 1e-12)
