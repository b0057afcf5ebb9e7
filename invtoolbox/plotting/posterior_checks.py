"""Figure of the check of a posterior: histograms of ranks, and the expected coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invtoolbox.plotting.canvas import new_figure

#: Factor of a standard deviation that holds 95 %.
_BAND = 1.96


def posterior_check_figure(
    histograms: Mapping[str, Tensor],
    p_values: Mapping[str, float],
    levels: Tensor,
    coverage: Tensor,
    repetitions: int,
) -> Any:
    """Return a matplotlib figure with one histogram per functional and the expected coverage.

    Args:
        histograms: number of repetitions per bin of ranks, by functional.
        p_values: p-value by functional.
        levels: probabilities, ``(n,)``.
        coverage: share of the truths in regions of these probabilities, ``(n,)``.
        repetitions: number of repetitions.
    """
    columns = len(histograms) + 1
    figure = new_figure((2.4 * columns, 2.6), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis, (name, counts) in zip(axes, histograms.items()):
        share = 1 / len(counts)
        # The number of repetitions in a bin is binomial.
        half = _BAND * (repetitions * share * (1 - share)) ** 0.5
        middle = repetitions * share
        axis.axhspan(middle - half, middle + half, color="0.85")
        axis.bar(range(len(counts)), counts.numpy(), width=0.9)
        axis.set(title=f"{name}, p = {p_values[name]:.2g}", xlabel="rank of the truth", xticks=[])
    axis = axes[-1]
    half_width = _BAND * (levels * (1 - levels) / repetitions).sqrt()
    low, high = (levels - half_width).numpy(), (levels + half_width).numpy()
    axis.fill_between(levels.numpy(), low, high, color="0.85")
    axis.plot(levels.numpy(), coverage.numpy())
    axis.set(
        title="expected coverage", xlabel="probability of the region", ylabel="share of truths"
    )
    return figure
