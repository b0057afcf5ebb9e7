"""Best-fitting rotations in closed form, for many small clouds at once, and unit quaternions.

Quaternions are ``(w, x, y, z)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.geometry.rigid import rotation, skew

#: Relative share of the identity that is added: vectors along one line leave the turn about it
#: undetermined, and it is then 0.
_TIE = 1e-7


def best_rotation(S: Tensor) -> Tensor:
    r"""Compute the rotation R that minimizes ``sum_k w_k |b_k - R a_k|^2``.

    The argument is ``S = sum_k w_k b_k a_k^T``, and the shape is ``(..., 3, 3)`` for both. R
    maximizes ``tr(R^T S)``, and is ``U diag(1, 1, det(U V^T)) V^T`` of the decomposition
    ``S = U Sigma V^T``. It is computed as the unit quaternion of the largest eigenvalue of a
    symmetric 4 by 4 matrix (Horn, J. Opt. Soc. Am. A 4, 1987). The eigenvalue is the sum of the
    singular values, the smallest with the sign of ``det S``; it comes from a closed form, refined
    by two steps of Newton's method (Theobald, Acta Cryst. A 61, 2005). All of this is plain
    arithmetic on arrays, several times as fast as decompositions one by one.

    The computation is in float64, and the result has the precision of S. No derivative passes
    through: the derivative of a minimum over R is the derivative with R fixed.

    >>> import math
    >>> from invtoolbox.geometry.rigid import rotation
    >>> a = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    >>> R = rotation(torch.tensor([0.1, -2.0, 1.0]))
    >>> bool((best_rotation((a @ R.T).T @ a) - R).abs().max() < 1e-6)
    True
    """
    with torch.no_grad():
        # R does not depend on the scale of S, so S is divided by its Frobenius norm; S = 0 gives the
        # identity.
        matrix = S.detach().double()
        size = matrix.square().sum((-1, -2), keepdim=True).sqrt()
        eye = torch.eye(3, dtype=torch.float64, device=S.device)
        matrix = torch.where(size > 0, matrix / torch.where(size > 0, size, 1.0), eye)
        # Each of the nine entries is a contiguous array.
        s = [[c.contiguous() for c in row.unbind(-1)] for row in (matrix + _TIE * eye).unbind(-2)]
        R = rotation_matrices(_eigenvector(s, _largest_eigenvalue(s)))
        return _refine(R, matrix) if S.dtype == torch.float64 else R.to(S.dtype)


def fit_rotation(S: Tensor) -> Tensor:
    r"""Compute `best_rotation` with its derivative.

    ``dR = R [omega]``, ``(tr(P) - P) omega = vee(R^T dS - dS^T R)``, ``P = R^T S``. The derivative
    is needed if R enters a function that R does not minimize. It is unbounded if
    vectors lie along one line, or are a reflection of each other; there it is cut off.
    """
    return _FitRotation.apply(S)


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Return the rotation matrices of quaternions of any length, ``(..., 4) -> (..., 3, 3)``.

    >>> rotation_matrices(torch.tensor([2.0, 0, 0, 2.0])).round()  # a quarter about z
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    from kornia.geometry.conversions import quaternion_to_rotation_matrix

    return quaternion_to_rotation_matrix(quaternions)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the quaternion of the rotation b followed by a, ``(..., 4)``."""
    # Hamilton's product: (w, v)(w', v') = (w w' - v . v', w v' + w' v + v x v').
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def quaternions(matrices: Tensor) -> Tensor:
    """Return the unit quaternions of rotation matrices, ``(..., 3, 3) -> (..., 4)``.

    >>> quaternions(torch.eye(3))
    tensor([1., 0., 0., 0.])
    """
    from kornia.geometry.conversions import rotation_matrix_to_quaternion

    return rotation_matrix_to_quaternion(matrices)


def of_rotation_vector(vector: Tensor) -> Tensor:
    """Return the quaternion of the rotation about a vector by its length in radians.

    The shapes are ``(..., 3) -> (..., 4)``; the function is smooth at 0.
    """
    from kornia.geometry.conversions import axis_angle_to_quaternion

    return axis_angle_to_quaternion(vector)


class _FitRotation(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, S: Tensor) -> Tensor:
        R = best_rotation(S)
        context.save_for_backward(S, R)
        return R

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        # For the gradient G of R: with a = vee(R^T G - G^T R) and b = (tr(P) - P)^-1 a, the gradient
        # of S is R [b]_x. P is symmetric at the optimum; its asymmetry is rounding.
        S, R = context.saved_tensors
        P = R.transpose(-1, -2) @ S
        P = 0.5 * (P + P.transpose(-1, -2))
        trace = P.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        eye = torch.eye(3, dtype=S.dtype, device=S.device)
        a = _axial(R.transpose(-1, -2) @ gradients[0])
        # The relative ridge cuts the derivative off where tr(P) - P is singular: at vectors along one
        # line, or at a reflection.
        b = torch.linalg.solve_ex(
            trace * eye - P + 1e-7 * trace.abs().clamp_min(torch.finfo(S.dtype).tiny) * eye,
            a[..., None],
            check_errors=not S.is_cuda,
        ).result.squeeze(-1)
        return R @ skew(b)


def _axial(A: Tensor) -> Tensor:
    """Return the axial vector of ``A - A^T``, ``(..., 3)``."""
    return torch.stack([A[..., i, j] - A[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], dim=-1)


def _largest_eigenvalue(s: list[list[Tensor]]) -> Tensor:
    """Compute ``sigma_1 + sigma_2 + sign(det) sigma_3``."""
    cofactors = [
        [
            s[(i + 1) % 3][(j + 1) % 3] * s[(i + 2) % 3][(j + 2) % 3]
            - s[(i + 1) % 3][(j + 2) % 3] * s[(i + 2) % 3][(j + 1) % 3]
            for j in range(3)
        ]
        for i in range(3)
    ]
    det = s[0][0] * cofactors[0][0] + s[0][1] * cofactors[0][1] + s[0][2] * cofactors[0][2]
    # The sum of the sigma^2, and the sum of their products in pairs.
    trace = torch.stack([c.square() for row in s for c in row]).sum(0)
    minors = torch.stack([c.square() for row in cofactors for c in row]).sum(0)
    # The roots of t^3 - trace t^2 + minors t - det^2 are all real: Viete's cosines.
    centre = trace / 3
    spread = (centre.square() - minors / 3).clamp_min(0)
    radius = spread.sqrt()
    cubed = (spread * radius).clamp_min(1e-300)
    cosine = ((centre * (centre.square() - minors / 2) + det.square() / 2) / cubed).clamp(-1, 1)
    angle = cosine.acos() / 3
    third = 2.0 * torch.pi / 3
    # The squares of the sigma, in descending order.
    squares = [(centre + 2 * radius * (angle + k * third).cos()).clamp_min(0) for k in (0, -1, 1)]
    eigenvalue = (
        squares[0].sqrt() + squares[1].sqrt() + squares[2].sqrt() * torch.where(det < 0, -1.0, 1.0)
    )
    # Newton on the characteristic polynomial t^4 - 2 trace t^2 - 8 det t + last (Theobald 2005). The
    # slope vanishes at a double root, where the closed form stands.
    last = trace.square() - 4 * minors  # the determinant of the 4 by 4 matrix
    for _ in range(2):
        square = eigenvalue.square()
        slope = 4 * eigenvalue * (square - trace) - 8 * det
        step = ((square - 2 * trace) * square - 8 * det * eigenvalue + last) / torch.where(
            slope > 1e-9, slope, 1.0
        )
        eigenvalue = torch.where(slope > 1e-9, eigenvalue - step, eigenvalue)
    return eigenvalue


def _eigenvector(s: list[list[Tensor]], eigenvalue: Tensor) -> Tensor:
    """Return the quaternion ``(..., 4)``: the longest column of the adjugate of K - eigenvalue."""
    (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = s  # Horn sums a_i b_j, which is S transposed
    # The symmetric matrix K - eigenvalue of Horn (1987), with the diagonal a and the upper entries b.
    a = (
        xx + yy + zz - eigenvalue,
        xx - yy - zz - eigenvalue,
        yy - xx - zz - eigenvalue,
        zz - xx - yy - eigenvalue,
    )
    b01, b02, b03, b12, b13, b23 = yz - zy, zx - xz, xy - yx, xy + yx, zx + xz, yz + zy
    # Minors of two rows and two columns of a symmetric matrix: rows 2 and 3, then rows 0 and 1.
    low = {
        (0, 1): b02 * b13 - b12 * b03,
        (0, 2): b02 * b23 - a[2] * b03,
        (0, 3): b02 * a[3] - b23 * b03,
        (1, 2): b12 * b23 - a[2] * b13,
        (1, 3): b12 * a[3] - b23 * b13,
        (2, 3): a[2] * a[3] - b23 * b23,
    }
    top = {
        (0, 1): a[0] * a[1] - b01 * b01,
        (0, 2): a[0] * b12 - b02 * b01,
        (0, 3): a[0] * b13 - b03 * b01,
        (1, 2): b01 * b12 - b02 * a[1],
        (1, 3): b01 * b13 - b03 * a[1],
        (2, 3): b02 * b13 - b03 * b12,
    }
    # The adjugate of a matrix of rank 3 is a multiple of q q^T, q its null vector: any column that is
    # not 0 is q. Its diagonal is c q_k^2, so the largest diagonal entry marks the longest column.
    c00 = a[1] * low[2, 3] - b12 * low[1, 3] + b13 * low[1, 2]
    c01 = -(b01 * low[2, 3] - b12 * low[0, 3] + b13 * low[0, 2])
    c02 = b01 * low[1, 3] - a[1] * low[0, 3] + b13 * low[0, 1]
    c03 = -(b01 * low[1, 2] - a[1] * low[0, 2] + b12 * low[0, 1])
    c11 = a[0] * low[2, 3] - b02 * low[0, 3] + b03 * low[0, 2]
    c12 = -(a[0] * low[1, 3] - b01 * low[0, 3] + b03 * low[0, 1])
    c13 = a[0] * low[1, 2] - b01 * low[0, 2] + b02 * low[0, 1]
    c22 = b03 * top[1, 3] - b13 * top[0, 3] + a[3] * top[0, 1]
    c23 = -(b02 * top[1, 3] - b12 * top[0, 3] + b23 * top[0, 1])
    c33 = b02 * top[1, 2] - b12 * top[0, 2] + a[2] * top[0, 1]
    columns = (
        (c00, c01, c02, c03),
        (c01, c11, c12, c13),
        (c02, c12, c22, c23),
        (c03, c13, c23, c33),
    )
    best, longest = torch.stack(columns[0], -1), c00.abs()
    for column, diagonal in zip(columns[1:], (c11, c22, c33)):
        longer = diagonal.abs() > longest
        best = torch.where(longer[..., None], torch.stack(column, -1), best)
        longest = torch.where(longer, diagonal.abs(), longest)
    return best / best.norm(dim=-1, keepdim=True).clamp_min(1e-300)


def _refine(R: Tensor, S: Tensor) -> Tensor:
    """Apply one step of Newton's method on rotations.

    It removes the effect of the added share of the identity, which is visible in float64 only.
    """
    # tr(R^T S) is stationary where P = R^T S is symmetric: (tr(P) - P) step = vee(P - P^T). Long steps
    # come from degenerate S, whose rotation is undetermined, and are not taken.
    P = R.transpose(-1, -2) @ S
    slope = _axial(P)
    trace = P.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eye = torch.eye(3, dtype=P.dtype, device=P.device)
    step = torch.linalg.solve(
        (trace + 1e-9) * eye - 0.5 * (P + P.transpose(-1, -2)), slope[..., None]
    ).squeeze(-1)
    return R @ rotation(
        torch.where(step.norm(dim=-1, keepdim=True) < 1e-3, step, torch.zeros_like(step))
    )
