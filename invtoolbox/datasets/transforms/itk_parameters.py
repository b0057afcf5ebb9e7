"""Transforms as ITK stores them: the name of a class, its parameters and its fixed parameters.

Source: the classes of ITK 5.4, ``Modules/Core/Transform``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.geometry.transforms import Affine, Composite, DisplacementField, Transform

_NAME = re.compile(r"(\w+?)_(?:double|float)_([23])_([23])")
_COMPOSITE, _FIELD = "CompositeTransform", "DisplacementFieldTransform"


class Record(NamedTuple):
    """One transform of a file.

    Attributes:
        name: name of the class with type and dimensions, such as "AffineTransform_double_3_3".
        parameters: what a registration changes, ``(N,)``.
        fixed: what it does not, such as the centre of a rotation, ``(M,)``.
    """

    name: str
    parameters: np.ndarray
    fixed: np.ndarray


def from_records(records: Sequence[Record]) -> Transform:
    """Return the transform of a file; a composite's records follow its own.

    Raises:
        InputError: kinds of transforms that are not read, numbers that do not fit the kind, or
            several transforms without a composite.
    """
    if not records:
        raise InputError("it holds no transform; write it again")
    head, *steps = records
    if head.name.startswith(_COMPOSITE):
        # ITK applies the transform that was added last first.
        return Composite([_transform(record) for record in reversed(steps)])
    if steps:
        raise InputError(
            f"it holds {len(records)} transforms that no composite joins; write them to files of "
            "their own, or join them in a CompositeTransform"
        )
    return _transform(head)


def to_records(transform: Transform) -> list[Record]:
    """Return the records of a transform, in float64 or in the field's float32.

    Raises:
        InputError: a kind of transform that ITK does not have.
    """
    d = transform.dimensions
    suffix = f"_double_{d}_{d}"
    if isinstance(transform, Affine):
        matrix = transform.matrix.detach().cpu().numpy()
        numbers = np.concatenate([matrix[:-1, :-1].ravel(), matrix[:-1, -1]])
        return [Record("AffineTransform" + suffix, numbers, np.zeros(d))]
    if isinstance(transform, DisplacementField):
        field = transform.displacement.detach().cpu().movedim(0, -1).contiguous().numpy()
        spacing, origin, direction = transform.grid.itk(d)
        fixed = np.concatenate([field.shape[-2::-1], origin, spacing, direction.ravel()])
        return [Record(_FIELD + suffix, field.ravel(), fixed)]
    if isinstance(transform, Composite):
        steps = [to_records(step) for step in reversed(transform.steps)]
        # A composite within a composite becomes its steps.
        flat = [r for step in steps for r in step if not r.name.startswith(_COMPOSITE)]
        return [Record(_COMPOSITE + suffix, np.zeros(0), np.zeros(0)), *flat]
    raise InputError(
        f"a {type(transform).__name__} has no form in ITK; sample it on a grid with "
        "DisplacementField.sample"
    )


def _transform(record: Record) -> Transform:
    match = _NAME.fullmatch(record.name)
    if match is None or match[2] != match[3]:
        raise InputError(
            f"it holds a {record.name[:60]!r}; only transforms of ITK of 2 and 3 dimensions are read"
        )
    kind, d = match[1], int(match[2])
    if not (np.isfinite(record.parameters).all() and np.isfinite(record.fixed).all()):
        raise InputError(f"its {kind} has parameters that are NaN or infinite; write it again")
    if kind.endswith(_FIELD):
        return _field(kind, d, record.parameters, record.fixed)
    counts, build = _KINDS.get(kind, ({}, _affine))
    if d not in counts:
        raise InputError(
            f"it holds a {kind} of {d} dimensions, which is not read; sample it as a displacement "
            "field, with SimpleITK.TransformToDisplacementField, and write it as .nii.gz or .mha"
        )
    p = np.asarray(record.parameters, dtype=np.float64)
    centre = np.zeros(d) if kind in _WITHOUT_CENTRE else record.fixed[:d]
    if len(p) != counts[d] or len(centre) != d:
        raise InputError(
            f"its {kind} has {len(p)} parameters and {len(record.fixed)} fixed ones; {counts[d]} "
            f"and {0 if kind in _WITHOUT_CENTRE else d} are needed: the file is damaged"
        )
    if kind == "Euler3DTransform" and len(record.fixed) > 3 and record.fixed[3]:
        build = _euler_zyx
    linear, translation = build(p, d)
    matrix = np.eye(d + 1)
    # T(x) = M (x - c) + c + t
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = translation + centre - linear @ centre
    return Affine(torch.from_numpy(matrix))


def _field(kind: str, d: int, parameters: np.ndarray, fixed: np.ndarray) -> DisplacementField:
    sizes = np.rint(fixed[:d])
    if len(fixed) != d * (d + 3) or (sizes < 1).any() or sizes.prod() * d != len(parameters):
        raise InputError(
            f"its {kind} has {len(parameters)} parameters and {len(fixed)} fixed ones, which "
            f"make no field of {d} dimensions: the file is damaged"
        )
    grid = Grid.from_itk(fixed[2 * d : 3 * d], fixed[d : 2 * d], fixed[3 * d :].reshape(d, d))
    field = parameters.reshape(*sizes[::-1].astype(int), d)
    return DisplacementField(torch.from_numpy(np.moveaxis(field, -1, 0).copy()), grid)


_Parts = tuple[np.ndarray, np.ndarray]


def _affine(p: np.ndarray, d: int) -> _Parts:
    return p[: d * d].reshape(d, d), p[d * d :]


def _turn(angle: float, first: int, second: int, d: int) -> np.ndarray:
    """Return the rotation by an angle from one axis towards another one."""
    matrix = np.eye(d)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[second, first], matrix[first, second] = np.sin(angle), -np.sin(angle)
    return matrix


def _euler(p: np.ndarray, d: int) -> _Parts:
    return _turn(p[2], 0, 1, 3) @ _turn(p[0], 1, 2, 3) @ _turn(p[1], 2, 0, 3), p[3:]


def _euler_zyx(p: np.ndarray, d: int) -> _Parts:
    return _turn(p[2], 0, 1, 3) @ _turn(p[1], 2, 0, 3) @ _turn(p[0], 1, 2, 3), p[3:]


def _versor(p: np.ndarray) -> np.ndarray:
    """Return the rotation about a vector of length sin(angle / 2)."""
    v = p[:3]
    if v @ v > 1 + 1e-9:
        raise InputError(f"the versor {v.tolist()} is longer than 1: the file is damaged")
    # R = (w^2 - |v|^2) I + 2 v v^T + 2 w [v]_x with w = cos(angle / 2)
    w = np.sqrt(max(1 - v @ v, 0.0))
    cross = np.cross(v, np.eye(3)).T
    return (w * w - v @ v) * np.eye(3) + 2 * np.outer(v, v) + 2 * w * cross


def _shears(k: np.ndarray) -> np.ndarray:
    """Return the matrix with six numbers off its diagonal, row by row."""
    matrix = np.zeros((3, 3))
    matrix[~np.eye(3, dtype=bool)] = k
    return matrix


#: Kinds of linear transforms: the number of parameters by dimension, and the function that returns
#: the matrix and the translation. Scales and shears of versors are added to the rotation.
_KINDS: dict[str, tuple[dict[int, int], Callable[[np.ndarray, int], _Parts]]] = {
    "AffineTransform": ({2: 6, 3: 12}, _affine),
    "MatrixOffsetTransformBase": ({2: 6, 3: 12}, _affine),
    "IdentityTransform": ({2: 0, 3: 0}, lambda p, d: (np.eye(d), np.zeros(d))),
    "TranslationTransform": ({2: 2, 3: 3}, lambda p, d: (np.eye(d), p)),
    "ScaleTransform": ({2: 2, 3: 3}, lambda p, d: (np.diag(p), np.zeros(d))),
    "Euler2DTransform": ({2: 3}, lambda p, d: (_turn(p[0], 0, 1, 2), p[1:])),
    "Rigid2DTransform": ({2: 3}, lambda p, d: (_turn(p[0], 0, 1, 2), p[1:])),
    "Similarity2DTransform": ({2: 4}, lambda p, d: (p[0] * _turn(p[1], 0, 1, 2), p[2:])),
    "Euler3DTransform": ({3: 6}, _euler),
    "VersorTransform": ({3: 3}, lambda p, d: (_versor(p), np.zeros(3))),
    "VersorRigid3DTransform": ({3: 6}, lambda p, d: (_versor(p), p[3:])),
    "Similarity3DTransform": ({3: 7}, lambda p, d: (p[6] * _versor(p), p[3:6])),
    "ScaleVersor3DTransform": ({3: 9}, lambda p, d: (_versor(p) + np.diag(p[6:] - 1), p[3:6])),
    "ScaleSkewVersor3DTransform": (
        {3: 15},
        lambda p, d: (_versor(p) + np.diag(p[6:9] - 1) + _shears(p[9:]), p[3:6]),
    ),
}
_WITHOUT_CENTRE = ("IdentityTransform", "TranslationTransform")
