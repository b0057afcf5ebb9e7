"""The prior that is chosen by the measurements themselves."""

from __future__ import annotations

from collections.abc import Sequence

from invtoolbox.errors import InputError
from invtoolbox.priors.base import Prior, PriorSum


class Auto(Prior):
    """Choose among candidates the prior that predicts held-out measurements best.

    It is ``prior="auto"`` of `it.reconstruct`, of scenes and on the command line. Every candidate is
    solved for with a part of the measurements, predicts the others, and the mean squares of the
    errors are compared; the sentences in ``Solution.notes`` list them.

    Args:
        candidates: names of priors; by default ``tv``, ``wavelet`` and ``tgv``, and of 2D scans
            ``tv``, the two levels of an object of one material, and ``lpn-ct`` and ``diffusion-ct``
            if the image shows air and soft tissue.

    Raises:
        InputError: if it is added to another prior, or passed to `it.solve`.

    >>> Auto(["tv", "wavelet"]).candidates
    ('tv', 'wavelet')
    """

    def __init__(self, candidates: Sequence[str] = ()) -> None:
        self.candidates = tuple(candidates)

    def as_sum(self) -> PriorSum:
        raise InputError(
            "prior 'auto' compares several priors, so it stands alone and has no weight; use "
            "it.reconstruct(y, A, prior='auto'), a scene, or --prior auto"
        )

    def __repr__(self) -> str:
        return f"Auto({list(self.candidates) if self.candidates else ''})"
