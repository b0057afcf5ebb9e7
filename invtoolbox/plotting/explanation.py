"""The words in which a solution explains itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision, render, select_decisions
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.solution import Solution

#: Relative certificate above which L-BFGS does not give up because of rounding.
_ROUNDING = 0.01
#: A power of the iterations below which a certificate counts as one that no longer falls.
_STALLED = 0.1


def explain(solution: Solution, item: int) -> str:
    """Return the text of `Solution.explain`.

    Args:
        solution: the solution.
        item: number of the item in the batch.
    """
    states = solution.status
    if not -len(states) <= item < len(states):
        raise InputError(f"there is no item {item} among {len(states)} items")
    item %= len(states)
    weighs = solution.prior != "no prior" and states[item] != "invalid"
    choice = solution.weight_choice or "the weight was given"
    weight = f"{float(solution.regularization[item]):.4g} times {solution.prior}"
    others = [d for d in solution.decisions if d.step != "weight" and not d.is_compared]
    lines = {
        "Noise": _noise(solution, item),
        "Weight": f"{weight}; {choice}" if weighs else "",
        "Compared": "; ".join(_compared(solution, item)),
        "Solver": f"{solution.reason or solution.solver}. {describe_ending(solution, item)}",
        "Notes": "; ".join(render(select_decisions(others, [item]), 1)),
        "To change the answer": _advice(solution, item, weighs),
    }
    return "\n".join(f"{name}: {text.rstrip('.')}." for name, text in lines.items() if text)


def describe_ending(solution: Solution, item: int) -> str:
    """Return how the run of an item ended, and what more time would bring.

    Args:
        solution: the solution.
        item: number of the item in the batch.
    """
    status, count = solution.status[item], int(solution.iterations[item])
    after = f"after {count} iteration{'' if count == 1 else 's'}"
    ending = {
        "converged": f"It converged {after}",
        "early_stopping": f"It ended by design {after}",
        "limit": f"It reached its limit {after}",
        "stopped": f"It was stopped by a callback, or gave up, {after}",
        "diverged": f"It diverged {after}, and x is the last finite iterate",
        "invalid": "The measurements are not finite, so there is no answer",
    }.get(status, f"{status} {after}")
    rows = solution.history.get("certificate", torch.zeros(0, 1))[:count]
    if not len(rows) or status in ("diverged", "invalid"):
        return ending
    curve = rows[:, item].double()
    reached = f"{ending}: the {solution.certificate} is {float(curve[-1]):.3g}"
    if solution.tolerance is None:
        return reached
    reached += f", and the tolerance is {solution.tolerance:g}"
    if status == "converged":
        return reached
    return f"{reached}. {_outlook(curve, solution.tolerance, status == 'stopped', solution.solver)}"


def estimated_noise(solution: Solution, item: int) -> float | None:
    """Return the noise level that was estimated for an item, None if none was.

    Args:
        solution: the solution.
        item: number of the item in the batch.
    """
    levels = (d.after for d in solution.decisions if d.step == "noise" and d.concerns(item))
    return next((level for level in levels if level is not None), None)


def _noise(solution: Solution, item: int) -> str:
    term = solution.data_term
    if (level := estimated_noise(solution, item)) is not None:
        return f"noise_std = {level:.4g} estimated from the data; the data term is {term}"
    if "noise_std" in term:
        return f"the stated level of {term}"
    return "no level was stated, and none was estimated" + (term and f"; the data term is {term}")


def _compared(solution: Solution, item: int) -> list[str]:
    """Return the comparisons of weights, and of the answer with others."""
    compared = [
        _describe_comparison(decision)
        for decision in solution.decisions
        if decision.is_compared and decision.concerns(item)
    ]
    if (curve := solution.weight_search) is not None:
        weights = curve.weights[item][curve.scores[item].isfinite()]
        if weights.numel():
            low, high = float(weights.min()), float(weights.max())
            compared.insert(
                0, f"{len(weights)} weights from {low:.3g} to {high:.3g} by {curve.rule}"
            )
    return compared


def _describe_comparison(decision: Decision) -> str:
    """Return what was compared, by which measure, with which outcome, and the time that it took."""
    figures = [f"{v:.3g}" for v in (decision.before, decision.after) if v is not None]
    errors = f", {' against '.join(figures)}" if figures else ""
    ending = decision.text(1) or f"{decision.outcome}, by {decision.evidence}{errors}"
    return f"{decision.step} ({decision.seconds:.2g} s): {ending}"


def _outlook(curve: Tensor, tolerance: float, is_stopped: bool, solver: str) -> str:
    """Return what more iterations would bring, from the trend of the certificate."""
    count, quarter = len(curve), len(curve) // 4
    above = ""
    if 0 < float(curve[-1]) <= tolerance:
        above = "The tolerance is met, but the objective may be more than 0.1 % above its minimum; "
    is_far = not above and float(curve[-1]) > _ROUNDING
    if is_stopped and is_far and solver.startswith("LBFGS"):  # the others give up elsewhere
        return (
            "If the solver gave up, no step along the gradient lowers the objective, so a gradient is "
            "wrong or the objective has kinks; testing.check_prior(prior, x) compares the gradient of "
            "a prior with its energy"
        )
    if is_stopped:
        # A solver gives up where its certificate is rounding, whose trend shows nothing.
        return (
            f"{above or 'If the solver gave up, '}rounding hides the rest, so more iterations change "
            f"nothing; dtype=torch.float64 may {'show it' if above else 'meet the tolerance'}"
        )
    if above:
        return (
            f"{above}max_iterations= more iterations, or dtype=torch.float64 if they change little, "
            "show it"
        )
    quarters = [
        values[values.isfinite() & (values > 0)].log()
        for values in (curve[-2 * quarter : -quarter], curve[-quarter:])
    ]
    if not tolerance or quarter < 2 or min(map(len, quarters)) == 0:
        return "max_iterations= gives it more"
    # c_k ~ k^-p through the geometric means of the third and the last quarter.
    before, now = (float(values.mean()) for values in quarters)
    power = (before - now) / math.log(3.5 / 2.5)
    if power < _STALLED:
        return (
            "It no longer falls, so more iterations change little; another solver, or "
            "dtype=torch.float64, may meet the tolerance"
        )
    # In logarithms, because the number may leave the range of floats.
    log_total = math.log(0.875 * count) + (now - math.log(tolerance)) / power
    if log_total <= math.log(count):
        return "A few more iterations meet it"
    many = log_total > math.log(1e6)
    total = "over a million" if many else f"about {float(f'{math.exp(log_total):.2g}'):.0f}"
    return f"If it goes on falling like this, {total} iterations in all meet it"


def _advice(solution: Solution, item: int, weighs: bool) -> str:
    settings = []
    if solution.status[item] in ("limit", "early_stopping"):
        settings.append("max_iterations= more iterations")
    if weighs:
        settings.append(
            "regularization= a number" + ("" if solution.weight_choice else ", or a rule")
        )
    if "noise_std" not in solution.data_term and "LeastSquares" in solution.data_term:
        settings.append("noise_std= a noise level that you know")
    settings.append("another prior" if weighs else "prior= a prior")
    return f"give {', '.join(settings[:-1])}{',' * (len(settings) > 2)} or {settings[-1]}"
