"""Undoing the sensor's motion within a sweep: points as if all were measured at the sweep's time, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.scenes.rigid import inverse, rotation_vector
from invtoolbox.scenes.sweep import Sweep

When = Literal["auto", "always", "never"]


@dataclass(frozen=True, eq=False)
class Deskew:
    """Even motion of the sensor while it measured: each point is moved by the part of the motion that had passed at its time.

    With the sensor's motion M from the sweep's time to that of the next, of rotation vector w and translation t, a point that was
    measured after a share s of that time is ``q = R(s w) p + s t`` (`scenes.rigid.part_of`), exactly, not in groups of points.

    Attributes:
        share: when each point was measured, in durations from this sweep to the next, ``(N,)`` float64.
        motion: M, the frame of the next sweep in that of this one, ``(4, 4)`` float64.

    >>> Deskew(torch.tensor([0.5]).double(), torch.eye(4).double())(torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """

    share: Tensor
    motion: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Measured points as they stand at the sweep's time: ``(N, 3) -> (N, 3)``."""
        p = points.double()
        return (self._turned(p, self.share) + self.share[:, None] * self.motion[:3, 3]).to(
            points.dtype
        )

    def undo(self, points: Tensor) -> Tensor:
        """Points at the sweep's time as the sensor measured them: ``(N, 3) -> (N, 3)``."""
        q = points.double() - self.share[:, None] * self.motion[:3, 3]
        return self._turned(q, -self.share).to(points.dtype)

    def _turned(self, p: Tensor, share: Tensor) -> Tensor:
        """About one axis, by an angle of its own for each point (Rodrigues)."""
        turn = rotation_vector(self.motion[:3, :3])
        angle = float(turn.norm())
        if angle < 1e-12:
            return p
        axis = (turn / angle).expand_as(p)
        sine, cosine = (share * angle).sin()[:, None], (share * angle).cos()[:, None]
        return (
            cosine * p
            + sine * torch.linalg.cross(axis, p)
            + (1 - cosine) * (p @ axis[0])[:, None] * axis
        )


def deskewing(
    sweep: Sweep, ego_motion: Tensor, period: float, when: When = "auto"
) -> tuple[Deskew | None, str]:
    """How to deskew a sweep, or None, and why: `when` is "auto" (where the points have times and the data set says that they
    are not deskewed), "always" or "never".

    Args:
        ego_motion: E from a sweep to the one `period` seconds later; the sensor goes on as it went.
        period: seconds between the two sweeps.
    """
    if when not in ("auto", "always", "never"):
        raise InputError(f"deskew is {when!r}; expected 'auto', 'always' or 'never'")
    if when == "never":
        return None, "not asked for"
    why = ""
    if sweep.time is None:
        why = "its points have no times"
    elif not period > 0:
        why = f"the sweeps' timestamps are {period:g} s apart"
    if when == "always":
        if why:
            raise InputError(f"{sweep.source} cannot be deskewed: {why}")
    elif sweep.deskewed is not False:
        why = "the data set has done so" if sweep.deskewed else "nothing says that it is needed"
    if why or sweep.time is None:
        return None, why
    share = torch.nan_to_num(sweep.time.double(), nan=0.0) / period
    return Deskew(share, inverse(ego_motion.to(share))), ""
