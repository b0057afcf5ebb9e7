"""Inversion of a picture to the noise from which a diffusion prior makes it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.inference_mode import outside_inference_mode
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.priors.implicit.probability_flow import ProbabilityFlow
from invtoolbox.solvers.linear_systems import gmres

#: Residual of a step, relative to the image, below which Newton's method stops.
_ACCURACY = 1e-6


@outside_inference_mode
def invert_flow(
    flow: ProbabilityFlow, x: Tensor, newton: int = 4, damping: float = 0.1, inner: int = 5
) -> dict[str, Tensor]:
    r"""Return the noise from which a probability flow makes given images, ``{"w": noise}``.

    From the last step to the first, Newton's method solves the equation of a step for ``x_k``:

    .. math:: \rho x_k + (1 - \rho) D(x_k, s_k) = x_{k+1}.

    The matrix is ``rho + (1 - rho) J``, J the Jacobian of the denoiser D. In the last step rho is
    0, and J is nearly singular for what D removes, so rho is at least ``damping`` in the matrix
    (Lavrentiev's regularization). This changes the path, not the solution. A Newton step that does
    not lower the residual of an item is halved. Without Newton steps the result is that of DDIM
    inversion, which takes D at ``x_{k+1}`` in place of ``x_k``. Samuel et al. ("Lightning-fast
    image inversion and editing for text-to-image diffusion models", ICLR 2025) propose Newton steps
    for this purpose, for the norm of the residual.

    Args:
        flow: probability flow of a diffusion prior.
        x: images ``(batch, channel, *space)``.
        newton: largest number of Newton steps per level; 0 for DDIM inversion.
        damping: least diagonal of the matrix that does not come from J.
        inner: number of GMRES steps per Newton step, each with one derivative of the denoiser.

    Raises:
        InputError: The images have another shape than those of the flow, or a number is out of
            range. An image with NaN has noise of NaN.

    >>> import invtoolbox as it
    >>> gaussian = it.priors.Gaussian(torch.full((1, 4), 0.4), 0.01)
    >>> flow = it.priors.ProbabilityFlow(gaussian, (1, 4), steps=8)
    >>> x = torch.tensor([[[0.3, 0.5, 0.4, 0.6]]])
    >>> [round(float((flow.decode(invert_flow(flow, x, n)) - x).norm()), 3) for n in (0, 4)]
    [0.175, 0.0]
    """
    if tuple(x.shape[1:]) != flow.shape:
        raise InputError(
            f"the flow makes images (batch, {', '.join(map(str, flow.shape))}), "
            f"got {tuple(x.shape)}"
        )
    check_range("invert_flow", "[0, inf)", newton=newton)
    check_range("invert_flow", "[1, inf)", inner=inner)
    check_range("invert_flow", "(0, 1]", damping=damping)
    schedule = flow.schedule()
    for level, following in reversed(list(itertools.pairwise(schedule))):
        # x_{k+1} is the image of a step, share = rho, and DDIM inversion takes D at x_{k+1}:
        # x_k = D + (x_{k+1} - D) / rho.
        goal, share = x, following / level
        with torch.no_grad():
            clean = flow.denoise(goal, level)
            x = clean + (goal - clean) / share if share > 0 else goal
        for _ in range(newton):
            x, is_done = _newton_step(
                flow, x, goal=goal, level=level, share=share, damping=damping, inner=inner
            )
            if is_done:
                break
    # The flow starts at x_0 = centre + s_0 w.
    return {"w": (x - flow.centre) / schedule[0]}


def _newton_step(
    flow: ProbabilityFlow,
    x: Tensor,
    goal: Tensor,
    level: float,
    share: float,
    damping: float,
    inner: int,
) -> tuple[Tensor, bool]:
    """Return the next iterate, and whether all items were accurate before it."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        clean = flow.denoise(x, level)
        # r = x_{k+1} - (rho x + (1 - rho) D(x)), and the Newton step d solves
        # (rho + (1 - rho) J) d = r.
        residual = goal - (share * x + (1 - share) * clean).detach()
        size = item_norm(residual)
        accurate = size <= _ACCURACY * item_norm(goal)
        if bool(accurate.all()):
            return x.detach(), True

        def matrix(v: Tensor) -> Tensor:
            """Return the product with the matrix; J is symmetric for the exact denoiser."""
            # (max(rho, damping) I + (1 - rho) J^T) v
            (product,) = torch.autograd.grad(clean, x, v, retain_graph=True)
            return max(share, damping) * v + (1 - share) * product

        change, _ = gmres(matrix, residual, 1e-3, inner)
    x = x.detach()
    length = torch.ones_like(size)
    # Halve the steps of the items whose residual does not fall.
    for _ in range(4):
        with torch.no_grad():
            candidate = x + expand(length, x) * change
            image = share * candidate + (1 - share) * flow.denoise(candidate, level)
        worse = item_norm(goal - image) >= size
        if not bool(worse.any()):
            break
        length = torch.where(worse, 0.5 * length, length)
    # Accurate items stay, so that an item has the same noise alone and in a batch.
    return torch.where(expand(worse | accurate, x) > 0, x, candidate), False
