"""Off-resonance: the phase that an inhomogeneous field adds between excitation and sample.

The phase ``exp(2 pi i f t)`` of pixels of frequency f at samples of time t is approximated by a few
products of an image and a time course, so that one Fourier transform per product suffices.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError

#: Nodes of frequency and of time: at least, and per cycle of the phase over both ranges.
_LEAST_NODES, _NODES_PER_CYCLE = 64, 12
#: Share of the nodes' weights that is even, so that rare frequencies are approximated as well.
_EVEN_SHARE = 0.1
#: Largest number of cycles, which bounds the number of segments (about cycles + 6).
_MOST_CYCLES = 200.0
#: Number of pixels or samples whose exponentials are computed at once.
_AT_ONCE = 1 << 15


class Segments(Settings):
    r"""Factors of the approximation ``exp(2 pi i f t) ~ sum_l in_space_l(f) in_time_l(t)``.

    The factors are the singular vectors of the matrix of exponentials, whose rows are weighted by
    the histogram of the field map and whose columns are the times: for a given number of segments
    no other approximation has a smaller mean squared error over the image and the readout (Sutton,
    Noll & Fessler, IEEE TMI 22, 2003; Fessler et al., IEEE TSP 53, 2005). Between the nodes of the
    histogram they are extended by the sums that define them (Nystroem), so that pixels keep their
    own frequencies.

    Args:
        field_map: frequencies in Hz, ``(1 or batch, *space)``; all items share the factors in time.
        times: times of the samples since the excitation in seconds, ``samples``.
        tolerance: singular values below this share of the largest one are left out, which is about
            the error of the exponentials.

    Attributes:
        in_space: factors of the pixels, ``(1 or batch, segments, *space)``, complex128.
        in_time: factors of the samples, ``(segments, *samples)``, complex128.

    Raises:
        InputError: if the phase makes more than 200 turns over both ranges.

    >>> f, t = torch.linspace(-41, 128, 30)[None], torch.linspace(0, 0.02, 50)
    >>> segments = Segments(f, t)
    >>> product = torch.einsum("lf,lt->ft", segments.in_space[0], segments.in_time)
    >>> exact = torch.exp(2j * math.pi * f[0, :, None].double() * t.double())
    >>> segments.count, bool((product - exact).abs().max() < 1e-4)
    (11, True)
    """

    item_fields = ("in_space",)

    def __init__(self, field_map: Tensor, times: Tensor, tolerance: float = 1e-5) -> None:
        f, t = field_map.detach().double(), times.detach().double()
        cycles = float((f.max() - f.min()) * (t.max() - t.min()))
        if cycles > _MOST_CYCLES:
            raise InputError(
                f"the field map spans {float(f.max() - f.min()):.4g} Hz and the samples "
                f"{float(t.max() - t.min()):.4g} s, {cycles:.4g} turns of the phase, more than "
                f"{_MOST_CYCLES:g}: are they in Hz and in seconds?"
            )
        nodes = max(_LEAST_NODES, math.ceil(_NODES_PER_CYCLE * cycles))
        node_f, weights = _histogram(f, nodes)
        node_t = _midpoints(t, nodes)
        root = weights.sqrt().unsqueeze(1)
        U, S, Vh = torch.linalg.svd(root * _exponential(node_f, node_t), full_matrices=False)
        count = int(S.gt(tolerance * S[0]).sum())
        # in_time_l(t) = sum_b conj(u_bl) w_b^(1/2) exp(2 pi i f_b t) / s_l, which is conj(v_l) at
        # the nodes; in_space_l(f) is the projection of exp(2 pi i f t) onto it.
        over_f = (U.conj() * root)[:, :count] / S[:count]
        over_t = Vh[:count].conj().T.contiguous()
        flat = [_project(item.flatten(), node_t, over_t) for item in f]
        self.in_space = torch.stack([item.T.reshape(count, *f.shape[1:]) for item in flat])
        self.in_time = _project(t.flatten(), node_f, over_f).T.reshape(count, *t.shape)

    @property
    def count(self) -> int:
        """Number of segments."""
        return len(self.in_time)


def as_segments(
    field_map: Any, times: Any, space: tuple[int, ...], samples: tuple[int, ...]
) -> Segments | None:
    """Return the segments of a field map after checking it; None if there is none.

    Args:
        field_map: frequencies in Hz, ``space``, ``(batch, *space)`` or ``(batch, 1, *space)``.
        times: times in seconds that broadcast against ``samples``.
        space: shape of the image without its channel.
        samples: shape of the samples.

    Raises:
        InputError: if one of the two is missing, has another shape or is not finite.
    """
    if field_map is None and times is None:
        return None
    if field_map is None or times is None:
        missing = "field_map" if field_map is None else "times"
        raise InputError(
            f"off-resonance needs the field map in Hz and the times of the samples in seconds; "
            f"{missing} is missing"
        )
    f, t = as_tensor(field_map), as_tensor(times)
    if f.ndim == len(space) + 2 and f.shape[1] == 1:
        f = f.squeeze(1)
    f = f.unsqueeze(0) if f.ndim == len(space) else f
    if f.is_complex() or tuple(f.shape[1:]) != space or not len(f):
        raise InputError(
            f"the field map has shape {tuple(as_tensor(field_map).shape)} and dtype "
            f"{f.dtype}, expected real frequencies in Hz of shape {space}, with a batch axis in "
            "front if items differ"
        )
    try:
        t = t.expand(samples)
    except RuntimeError:
        raise InputError(
            f"the times of the samples have shape {tuple(t.shape)}, which does not broadcast to "
            f"the samples {samples}"
        ) from None
    for name, values in (("field map", f), ("times of the samples", t)):
        if values.is_complex() or not bool(values.isfinite().all()):
            raise InputError(f"the {name} must be real and finite")
    return Segments(f, t.to(f.device))


def _histogram(values: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Return the midpoints of the bins of a histogram and their weights, of sum 1."""
    middles = _midpoints(values, nodes)
    low, high = values.min(), values.max()
    place = ((values - low) / (high - low).clamp_min(1e-300) * nodes).long().clamp(0, nodes - 1)
    share = torch.bincount(place.flatten(), minlength=nodes).double() / values.numel()
    return middles, (1 - _EVEN_SHARE) * share + _EVEN_SHARE / nodes


def _midpoints(values: Tensor, nodes: int) -> Tensor:
    """Return the midpoints of even intervals between the least and the largest value."""
    steps = torch.arange(nodes, dtype=torch.float64, device=values.device)
    return values.min() + (values.max() - values.min()) * (steps + 0.5) / nodes


def _exponential(a: Tensor, b: Tensor) -> Tensor:
    """Return ``exp(2 pi i a b)``, ``(len(a), len(b))``."""
    phase = 2 * math.pi * a.unsqueeze(1) * b
    return torch.polar(torch.ones_like(phase), phase)


def _project(places: Tensor, nodes: Tensor, coefficients: Tensor) -> Tensor:
    """Return ``exp(2 pi i places nodes) @ coefficients``, in parts of bounded memory."""
    return torch.cat(
        [_exponential(block, nodes) @ coefficients for block in places.split(_AT_ONCE)]
    )
