"""Small real data that come with installed packages, so that the first steps need no network."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from invtoolbox.datasets.dicom import Dicom
from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.pictures import Pictures
from invtoolbox.errors import InputError, unknown_name

#: Photographs inside scikit-image's wheel; its other pictures would be downloaded.
PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "galaxies": "hubble_deep_field.jpg",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "moon": "moon.png",
    "page": "page.png",
    "rocket": "rocket.jpg",
}


def ct_small(units: str = "HU") -> Measurement:
    """A real CT slice of 128x128 pixels, 0.66 mm each, that comes with pydicom (`CT_small.dcm`).

    Args:
        units: "HU" or "1/mm", as in `Dicom`.

    >>> slice_ = ct_small()
    >>> slice_.y.shape, slice_.meta["units"]
    (torch.Size([1, 1, 128, 128]), 'HU')
    """
    from pydicom.data import get_testdata_file

    path = get_testdata_file("CT_small.dcm", download=False)
    if not isinstance(path, str):
        raise InputError(
            "CT_small.dcm is missing from the installed pydicom; install pydicom 3 from PyPI"
        )
    return Dicom(path, units=units)[0]


def photograph(name: str = "camera") -> Tensor:
    """A real photograph that comes with scikit-image, ``(1, channel, rows, columns)`` with values from 0 to
    1.

    >>> photograph("camera").shape, photograph("cat").shape
    (torch.Size([1, 1, 512, 512]), torch.Size([1, 3, 300, 451]))
    """
    if name not in PHOTOGRAPHS:
        raise unknown_name("photograph", name, PHOTOGRAPHS)
    import skimage

    path = Path(skimage.__file__).parent / "data" / PHOTOGRAPHS[name]
    if not path.is_file():
        raise InputError(
            f"{path.name} is missing from the installed scikit-image; install it from PyPI"
        )
    return Pictures(path)[0].y
