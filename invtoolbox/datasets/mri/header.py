"""Header of ISMRMRD, an XML text: matrices, fields of view, centres of k-space, and the noise bandwidth.

Source: Inati et al., "ISMRM Raw data format: a proposed standard for MRI raw datasets", MRM 77, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from invtoolbox.errors import InputError

#: Plain facts of the header and their places in it.
_FACTS = {
    "vendor": "acquisitionSystemInformation/systemVendor",
    "model": "acquisitionSystemInformation/systemModel",
    "protocol": "measurementInformation/protocolName",
    "patient_position": "measurementInformation/patientPosition",
}
#: Numbers of the sequence, one or one per contrast, and their places.
_NUMBERS = {
    "field_strength_T": "acquisitionSystemInformation/systemFieldStrength_T",
    "TR_ms": "sequenceParameters/TR",
    "TE_ms": "sequenceParameters/TE",
    "TI_ms": "sequenceParameters/TI",
    "flip_angle_degrees": "sequenceParameters/flipAngle_deg",
}


@dataclass(frozen=True)
class Space:
    """Matrix and field of view, in the order slices (or partitions), phase encoding, readout.

    Attributes:
        matrix: number of voxels along every axis.
        fov: field of view along every axis in mm; 0 if the header does not state it.
    """

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]


@dataclass(frozen=True)
class Encoding:
    """One encoding of a header.

    Attributes:
        encoded: space that k-space encodes.
        recon: space of the image that the scanner would show.
        trajectory: word of the header, such as "cartesian" or "radial".
        centers: encoding steps 2 and 1 of frequency zero; None if the header does not state them.
    """

    encoded: Space
    recon: Space
    trajectory: str = "cartesian"
    centers: tuple[int | None, int | None] = (None, None)

    def shown(self, axis: int) -> int:
        """Return the number of encoded voxels within the field of view of the image.

        An axis is encoded over a larger field than the image has if it is oversampled; the middle
        of the encoded voxels is then the image, without interpolation.

        Args:
            axis: 0 for slices, 1 for phase encoding, 2 for the readout.
        """
        count, whole, fov = (
            self.encoded.matrix[axis],
            self.encoded.fov[axis],
            self.recon.fov[axis],
        )
        if not (whole > 0 and 0 < fov < whole):
            return count
        return min(count, max(1, round(count * fov / whole)))

    def voxel_size(self, axis: int) -> float:
        """Return the size of an encoded voxel in mm; 1 if the header states no field of view."""
        return (self.encoded.fov[axis] or self.encoded.matrix[axis]) / self.encoded.matrix[axis]


@dataclass(frozen=True)
class Header:
    """Content of the header that a reconstruction needs.

    Attributes:
        encodings: the encodings, in the order of their numbers.
        noise_bandwidth: bandwidth of the receiver's noise relative to the one of its samples; 1 if
            the header does not state it.
        facts: vendor, model, protocol and position of the patient, as far as stated.
        numbers: field strength, TR, TE, TI and flip angle, as far as stated, one number or one per
            contrast.
    """

    encodings: tuple[Encoding, ...]
    noise_bandwidth: float = 1.0
    facts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def of_contrast(self, contrast: int = 0) -> dict[str, Any]:
        """Return the facts, and the numbers of a contrast.

        Args:
            contrast: number of the contrast, counted from 0.
        """
        numbers = {
            name: values[contrast] if contrast < len(values) else values[0]
            for name, values in self.numbers.items()
        }
        return {**self.facts, **numbers}


def read_header(text: str | bytes, path: Path) -> Header:
    """Read the XML header of an ISMRMRD or fastMRI file.

    Args:
        text: content of the header.
        path: path of the file, for error messages.

    Raises:
        InputError: no XML, the XML of another format, no encoding, or a matrix without voxels.

    >>> space = "<matrixSize><x>8</x><y>4</y><z>1</z></matrixSize>"
    >>> fov = "<fieldOfView_mm><x>{0}</x><y>40</y><z>5</z></fieldOfView_mm>"
    >>> text = "<ismrmrdHeader><encoding>" + "".join(
    ...     f"<{name}>{space}{fov.format(x)}</{name}>"
    ...     for name, x in (("encodedSpace", 80), ("reconSpace", 40))
    ... ) + "</encoding></ismrmrdHeader>"
    >>> read_header(text, Path("scan.h5")).encodings[0].shown(2)  # twofold oversampling
    4
    """
    content = text.encode() if isinstance(text, str) else bytes(text)
    if b"<!ENTITY" in content:
        raise InputError(
            f"{path}: its XML header declares entities, which are refused; remove them"
        )
    try:
        root = ElementTree.fromstring(content.strip(b"\0 \r\n\t"))
    except ElementTree.ParseError as error:
        raise InputError(
            f"{path}: its XML header cannot be read ({error}); convert the raw data again"
        ) from None
    for element in root.iter():  # names without the namespace of the schema
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != "ismrmrdHeader":
        raise InputError(
            f"{path}: its XML header is of {root.tag[:40]!r}, not of ismrmrdHeader; convert the raw "
            "data again"
        )
    encodings = tuple(_encoding(element, path) for element in root.findall("encoding"))
    if not encodings:
        raise InputError(f"{path}: its XML header has no encoding; convert the raw data again")
    place = "acquisitionSystemInformation/relativeReceiverNoiseBandwidth"
    facts = {name: root.findtext(where) for name, where in _FACTS.items()}
    return Header(
        encodings,
        _number(root, place, path) or 1.0,
        {name: words for name, words in facts.items() if words},
        {name: values for name, where in _NUMBERS.items() if (values := _list(root, where, path))},
    )


def _encoding(element: ElementTree.Element, path: Path) -> Encoding:
    encoded, recon = (_space(element, name, path) for name in ("encodedSpace", "reconSpace"))
    centers = tuple(
        _number(element, f"encodingLimits/kspace_encoding_step_{step}/center", path)
        for step in (2, 1)
    )
    second, first = (None if center is None else int(center) for center in centers)
    words = (element.findtext("trajectory") or "cartesian").strip().lower()
    return Encoding(encoded, recon, words, (second, first))


def _space(element: ElementTree.Element, name: str, path: Path) -> Space:
    sizes = [_number(element, f"{name}/matrixSize/{axis}", path) for axis in "zyx"]
    lengths = [_number(element, f"{name}/fieldOfView_mm/{axis}", path) for axis in "zyx"]
    if any(size is None or size < 1 for size in sizes):
        raise InputError(
            f"{path}: the {name} of its XML header has no matrix of voxels (x, y, z = "
            f"{sizes[::-1]}); convert the raw data again"
        )
    z, y, x = (int(size or 1) for size in sizes)
    depth, height, width = (length or 0.0 for length in lengths)
    return Space((z, y, x), (depth, height, width))


def _number(element: ElementTree.Element, place: str, path: Path) -> float | None:
    """Return the first number of a place in the header; None if there is none."""
    return next(iter(_list(element, place, path)), None)


def _list(element: ElementTree.Element, place: str, path: Path) -> tuple[float, ...]:
    """Return the finite numbers of a place in the header."""
    numbers = []
    for leaf in element.iterfind(place):
        words = (leaf.text or "").strip()
        try:
            number = float(words or "nan")
        except ValueError:
            number = math.nan
        if words and (not math.isfinite(number) or number < 0):
            raise InputError(
                f"{path}: its XML header has {words[:40]!r} as {place}, which is no number of at least "
                "0; convert the raw data again"
            )
        numbers += [number] if words else []
    return tuple(numbers)
