"""A posterior in pictures: its mean, how sure it is of each pixel, what else it may be, and whether it is right about that."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.conformal import Calibration, Scores, coverage_curve, residual_scores
from invtoolbox.plotting import page
from invtoolbox.plotting.charts import line_chart
from invtoolbox.plotting.pictures import Window, heat, plane, to_bytes, window_of
from invtoolbox.posterior import Posterior

#: Samples beside the mean, and behind the slider.
BESIDE, BEHIND = 4, 16
#: Groups of pixels of like standard deviation in the chart of errors.
_GROUPS = 12


def uncertainty(
    posterior: Posterior | None, truth: Tensor | None, calibration: Calibration | None, shown: int
) -> list[str]:
    """The part of a report about a posterior; nothing where there is none, or none of pictures.

    Args:
        posterior: of every item.
        truth: the reference, ``(batch or 1, channel, *space)``.
        calibration: of its intervals.
        shown: items with pictures of their own; the curves are over all of them.
    """
    if posterior is None or plane(posterior.mean[0]) is None:
        return []
    mean, std = posterior.mean.detach().cpu(), posterior.std.detach().cpu()
    samples = posterior.sample(BEHIND).detach().cpu()
    body = ["<h2>Uncertainty</h2>"]
    several = len(mean) > 1
    curves = (
        [] if truth is None else _curves(posterior, truth.to(mean).expand_as(mean), calibration)
    )
    for k in range(min(len(mean), shown)):
        if several:
            body.append(f"<h3>Item {k}</h3>")
        reference = None if truth is None else truth[min(k, len(truth) - 1)]
        pictures, slider = _pictures(mean[k], std[k], samples[:, k], reference)
        body += [page.row(pictures, tight=True), page.row([slider, *([] if several else curves)])]
    if several and curves:
        body += [f"<h3>All {len(mean)} items</h3>", page.row(curves)]
    return body


def _pictures(
    mean: Tensor, std: Tensor, samples: Tensor, reference: Tensor | None
) -> tuple[list[str], str]:
    """Mean, standard deviation, error and samples, to be side by side, and a slider over more samples."""
    middle, spread, true = plane(mean), plane(std), None if reference is None else plane(reference)
    assert middle is not None and spread is not None
    window = window_of(middle if true is None else true)
    drawn = [to_bytes(p, window) for sample in samples if (p := plane(sample)) is not None]
    # Standard deviation and error in one window: where both are alike, the posterior knows what it does not know.
    error = None if true is None else abs(middle - true)
    largest = (
        window_of(spread).high
        if error is None
        else max(window_of(spread).high, window_of(error).high / 2)
    )
    heated = Window(0.0, largest)
    figures = [
        page.picture(to_bytes(middle, window), "Mean", f"black to white: {window}"),
        page.picture(heat(spread, heated), "Standard deviation", f"black to white: {heated}"),
    ]
    if error is not None:
        figures.append(
            page.picture(
                heat(error, heated), "Error of the mean", "its magnitude, in the same colours"
            )
        )
    figures += [
        page.picture(p, f"Sample {k + 1}", "in the window of the mean")
        for k, p in enumerate(drawn[:BESIDE])
    ]
    return figures, page.slider(
        drawn, "Samples", "What stands still is known; what changes is not."
    )


def _curves(posterior: Posterior, truth: Tensor, calibration: Calibration | None) -> list[str]:
    """How often intervals hold, and how large errors are, over all items."""
    scores: Scores = residual_scores([posterior], [truth])
    levels, actual = coverage_curve(scores)
    lines, names = [levels * 100, actual * 100], ["as it should be", "as it is"]
    if calibration is not None:
        own = residual_scores([posterior], [truth], calibration.scores.floor)
        lines.append(coverage_curve(own, levels, calibration)[1] * 100)
        names.append("calibrated")
    coverage = line_chart(
        [line.numpy() for line in lines],
        "pixels within, %",
        names,
        log=False,
        axis="the interval says, %",
        places=(levels * 100).tolist(),
        low_legend=True,
    )
    held = f"Of the pixels, {100 * scores.below(1.959964):.1f} % lie within the 95 % interval"
    if calibration is not None:
        held += f", {100 * float(calibration.coverage(posterior, truth, 0.95).mean()):.1f} % once it is calibrated"
    figures = [page.chart(coverage, "Coverage", held + ".")] if coverage is not None else []
    said, happened = grouped_errors(
        posterior.std.detach().cpu(), (posterior.mean.detach().cpu() - truth)
    )
    errors = (
        line_chart(
            [said.numpy(), happened.numpy()],
            "error",
            ["as it should be", "as it is"],
            log=False,
            axis="standard deviation",
            places=said.tolist(),
            low_legend=True,
        )
        if len(said) > 1
        else None
    )
    if errors is not None:
        figures.append(
            page.chart(
                errors,
                "Calibration",
                "Root mean square error of pixels of about the same standard deviation.",
            )
        )
    return figures


def grouped_errors(std: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in groups of like standard deviation: the root mean square of it, and of the error, ``(groups,)`` each.

    >>> std = torch.linspace(0.1, 1.0, 1000)
    >>> said, happened = grouped_errors(std, 2 * std)
    >>> bool((happened / said - 2).abs().max() < 1e-5)
    True
    """
    order = std.flatten().argsort()
    groups = [g for g in order.chunk(_GROUPS) if len(g)]
    said = torch.stack([std.flatten()[g].double().square().mean().sqrt() for g in groups])
    happened = torch.stack([error.flatten()[g].double().square().mean().sqrt() for g in groups])
    apart = torch.cat([torch.ones(1, dtype=torch.bool), said.diff() > 1e-9 * said.max()])
    return said[apart], happened[apart]
