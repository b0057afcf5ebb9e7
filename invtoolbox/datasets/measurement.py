"""The item of every data set: measurements, their geometry and facts about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.datasets.mri.kspace import KSpace


@dataclass(frozen=True, eq=False)
class Measurement:
    """One measurement, ready for a `Problem`: ``it.Problem(item.y, item.geometry.operator())``.

    Attributes:
        y: measured data, ``(1, channel, *space)``, float32, or complex64 if the file is complex. A
            sinogram is ``(1, 1, angles, detectors)``, projections of a 3D scan are
            ``(1, 1, views, panel rows, panel columns)``, k-space is ``(1, coil, *samples)``.
        geometry: geometry of the scan, a `Geometry` or a `Geometry3D`; of k-space, its sampling, a
            `KSpace`; None for pictures.
        reference: image that comes with the data for comparison, ``(1, channel, *space)``, or None.
        segmentation: labels that come with the data, ``(1, channel, *space)``, uint8, or None.
        noise_std: standard deviation of the noise in `y`, or None if the file does not contain it.
        meta: plain facts, at least ``source`` (the path) and ``units`` (of `y`).

    >>> Measurement(torch.zeros(1, 1, 4, 4), meta={"source": "nowhere", "units": "1"}).meta["units"]
    '1'
    """

    y: Tensor
    geometry: ScanGeometry | KSpace | None = None
    reference: Tensor | None = None
    segmentation: Tensor | None = None
    noise_std: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))
        source = self.meta.get("source", "measurement")
        if self.y.ndim < 3 or self.y.shape[0] != 1:
            raise InputError(
                f"{source}: y has shape {tuple(self.y.shape)}; expected (1, channel, *space)"
            )
        finite = torch.isfinite(self.y)
        if not finite.all():
            bad = torch.nonzero(~finite)
            raise InputError(
                f"{source}: {len(bad)} of {self.y.numel()} values are NaN or infinite, the "
                f"first at index {tuple(bad[0].tolist())} of (1, channel, *space); repair or "
                "mask them"
            )
        if self.geometry is not None:
            self.geometry.check_measured(tuple(self.y.shape), str(source))


class DataSet(Protocol):
    """Data set: an object with a length whose items are measurements."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Measurement: ...


def as_tensor(array: Any) -> Tensor:
    """Copy a numeric array to a contiguous float32 (or complex64) tensor."""
    array = np.asarray(array)
    kind = np.complex64 if np.iscomplexobj(array) else np.float32
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))


def check_index(index: int, length: int) -> int:
    """Return the index counted from the front.

    An index out of range raises an IndexError, which ends a for loop.
    """
    if not -length <= index < length:
        raise IndexError(f"item {index} is out of range for a data set of {length} items")
    return index % length
