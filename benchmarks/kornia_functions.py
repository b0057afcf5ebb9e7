"""Functions that kornia has too: exactness, derivatives at special points, bits in a batch, seconds.

    python benchmarks/kornia_functions.py

A function is taken from kornia where kornia is as exact and its call is shorter than our code; the
code that was removed stands below, with the prefix ``removed``. The others are ours, and the table
shows the reason. Errors are those of float64, relative to 80-bit arithmetic where it is at hand
(the rows of rotations and lenses, at random points and at angles of 0, 1e-12, 1e-4 and pi), and
otherwise the difference of the two. Times are the processor time of one thread in float32, the
least of several measurements in turn. "bits" says whether an item gives the same bits alone and in a batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import kornia
import kornia.augmentation
import numpy as np
import torch
import torch.nn.functional as F
from common import machine, verdict
from kornia.geometry import conversions
from kornia.geometry.quaternion import Quaternion
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms.rendered_views import similarity_map
from invtoolbox.geometry import rigid, rotations
from invtoolbox.geometry.lens import Lens
from invtoolbox.operators.finite_difference import FiniteDifference

RADIAL, TANGENTIAL = (0.1, -0.05, 0.03, 0.2, 0.01, -0.03), (0.01, -0.02)
FISHEYE = (0.1, 0.02, 0.03, 0.04)


@dataclass(frozen=True)
class Row:
    """A function of ours, or the code that kornia replaced, and its counterpart."""

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    inputs: tuple[Tensor, ...]  # batch first
    kept: str  # "kornia" or "ours", and why
    exact: Callable[..., np.ndarray] | None = None  # in 80-bit arithmetic
    special: tuple[Tensor, ...] = ()  # further inputs of the comparison with `exact`


# -- what was removed


def removed_rotation(v: Tensor) -> Tensor:
    squared = v.square().sum(-1)[..., None, None]
    small = squared < 1e-8
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    first = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / angle.square())
    K = rigid.skew(v)
    return torch.eye(3, dtype=K.dtype) + first * K + second * (K @ K)


def removed_rotation_vector(m: Tensor) -> Tensor:
    diagonal = m.diagonal(dim1=-2, dim2=-1)
    trace = diagonal.sum(-1, keepdim=True)
    w2, x2, y2, z2 = torch.cat([1 + trace, 1 + 2 * diagonal - trace], dim=-1).unbind(-1)
    wx, wy, wz = (m[..., i, j] - m[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((1, 0), (0, 2), (2, 1)))
    rows = torch.stack(
        [
            torch.stack(row, dim=-1)
            for row in ((w2, wx, wy, wz), (wx, x2, xy, xz), (wy, xy, y2, yz), (wz, xz, yz, z2))
        ],
        -2,
    )
    best = torch.stack([w2, x2, y2, z2], -1).argmax(-1)
    row = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    row = row * torch.where(row[..., :1] < 0, -1.0, 1.0)
    length = row[..., 1:].norm(dim=-1)
    small = length < 1e-12 * row.norm(dim=-1)
    turn = 2 * torch.atan2(length, row[..., 0]) / torch.where(small, 1.0, length)
    return torch.where(small, 2 / row.norm(dim=-1), turn)[..., None] * row[..., 1:]


def removed_rotation_matrices(q: Tensor) -> Tensor:
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12)).unbind(-1)
    wx, wy, wz, xy, xz, yz = w * x, w * y, w * z, x * y, x * z, y * z
    xx, yy, zz = x * x, y * y, z * z
    first = (1 - 2 * (yy + zz), 2 * (xy - wz), 2 * (xz + wy))
    second = (2 * (xy + wz), 1 - 2 * (xx + zz), 2 * (yz - wx))
    third = (2 * (xz - wy), 2 * (yz + wx), 1 - 2 * (xx + yy))
    return torch.stack((*first, *second, *third), -1).unflatten(-1, (3, 3))


def removed_of_rotation_vector(v: Tensor) -> Tensor:
    squared = v.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    factor = torch.where(small, 0.5 - squared / 48, (0.5 * angle).sin() / angle)
    return torch.cat([torch.where(small, 1 - squared / 8, (0.5 * angle).cos()), factor * v], -1)


def removed_perspective(rays: Tensor) -> Tensor:
    x, y = rays.unbind(-1)
    r, k, (p1, p2) = x * x + y * y, RADIAL, TANGENTIAL
    c = (1 + r * (k[0] + r * (k[1] + r * k[2]))) / (1 + r * (k[3] + r * (k[4] + r * k[5])))
    bent = (x * c + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * c + p1 * (r + 2 * y * y))
    return torch.stack((bent[0], bent[1] + 2 * p2 * x * y), -1)


def removed_fisheye(rays: Tensor) -> Tensor:
    squared = rays.square().sum(-1)
    small = squared < 1e-12
    r = torch.where(small, torch.ones_like(squared), squared).sqrt()
    theta = torch.atan(r)
    t, k = theta * theta, FISHEYE
    factor = theta * (1 + t * (k[0] + t * (k[1] + t * (k[2] + t * k[3])))) / r
    return rays * torch.where(small, torch.ones_like(r), factor)[..., None]


def resample(picture: Tensor, source: Tensor) -> Tensor:
    grid = 2 * source / source.new_tensor([picture.shape[-1], picture.shape[-2]]) - 1
    return F.grid_sample(picture, grid, "bicubic", "border", align_corners=False)


def removed_grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)


# -- exact values, in 80 bits


def exact_rotation(v: Tensor) -> np.ndarray:
    a = v.numpy().astype(np.longdouble)
    angle = np.maximum(np.sqrt((a**2).sum(-1)), np.longdouble(1e-300))[..., None, None]
    K = np.zeros((*a.shape, 3), np.longdouble)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        K[..., j, i], K[..., i, j] = a[..., k], -a[..., k]
    second = 2 * (np.sin(angle / 2) / angle) ** 2
    return np.eye(3, dtype=np.longdouble) + np.sin(angle) / angle * K + second * (K @ K)


def exact_quaternion(v: Tensor) -> np.ndarray:
    a = v.numpy().astype(np.longdouble)
    angle = np.maximum(np.sqrt((a**2).sum(-1, keepdims=True)), np.longdouble(1e-300))
    return np.concatenate([np.cos(angle / 2), np.sin(angle / 2) / angle * a], -1)


def exact_lens(function: Callable[[Any], Any]) -> Callable[[Tensor], np.ndarray]:
    def exact(rays: Tensor) -> np.ndarray:
        return np.stack(function(*rays.numpy().astype(np.longdouble).transpose(1, 0)), -1)

    return exact


def exact_perspective(x: Any, y: Any) -> tuple[Any, Any]:
    k, (p1, p2), r = RADIAL, TANGENTIAL, x * x + y * y
    c = (1 + k[0] * r + k[1] * r**2 + k[2] * r**3) / (1 + k[3] * r + k[4] * r**2 + k[5] * r**3)
    return (
        x * c + 2 * p1 * x * y + p2 * (r + 2 * x * x),
        y * c + p1 * (r + 2 * y * y) + 2 * p2 * x * y,
    )


def exact_fisheye(x: Any, y: Any) -> tuple[Any, Any]:
    r = np.maximum(np.sqrt(x * x + y * y), np.longdouble(1e-300))
    t = np.arctan(r)
    factor = t * (1 + sum(k * t ** (2 * n) for n, k in enumerate(FISHEYE, 1))) / r
    return x * factor, y * factor


def rows() -> list[Row]:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    count = 20_000
    v, q, p, rays = normal(count, 3), normal(count, 4), normal(count, 4), 0.3 * normal(count, 2)
    R, unit = rigid.rotation(v), F.normalize(normal(50, 3).double(), dim=1)
    turns = tuple(angle * unit for angle in (0.0, 1e-12, 1e-4, 3.0))
    poses = rigid.rigid(R, v)
    lens, fisheye = Lens(radial=RADIAL, tangential=TANGENTIAL), Lens("fisheye", FISHEYE)
    color = torch.rand(4, 3, 256, 256, generator=g)
    noisy, grey = color + 0.1 * normal(4, 3, 256, 256), color[:, :1].contiguous()
    volume = torch.rand(1, 1, 40, 40, 40, generator=g)
    source = 1 + 254 * torch.rand(4, 256, 256, 2, generator=g)
    K = torch.tensor([[250.0, 0, 128], [0, 250, 128], [0, 0, 1]])
    cameras = it.geometry.Cameras(poses[:64], K.expand(64, 3, 3), (256, 256))
    tv = it.priors.TotalVariation(isotropic=False)
    blur = it.operators.Blur(torch.ones(9, 9) / 81, (256, 256))

    def project(poses: Tensor) -> Tensor:
        return it.geometry.Cameras(poses, K.to(poses).expand(len(poses), 3, 3), (256, 256)).project(
            v[:1000].to(poses)
        )[0]

    def project_theirs(poses: Tensor) -> Tensor:
        four = torch.eye(4, dtype=poses.dtype).repeat(len(poses), 1, 1)
        four[:, :3, :3] = K.to(poses)
        side = torch.full((len(poses),), 256)
        camera = kornia.geometry.PinholeCamera(four, poses, side, side)
        return camera.project(v[:1000].to(poses).expand(len(poses), -1, -1))

    def gradient(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        def differentiate(a: Tensor, b: Tensor) -> Tensor:
            a = a.clone().requires_grad_()
            return torch.autograd.grad(function(a, b)[..., 10:-10, 10:-10].sum(), a)[0]

        return differentiate

    def ssim(x: Tensor, y: Tensor) -> Tensor:
        kind = kornia.metrics.ssim if x.ndim == 4 else kornia.metrics.ssim3d
        # In double precision, as ours computes.
        value = kind(x.double(), y.double(), 11, 1.0, eps=0.0, padding="valid")
        return value.flatten(1).mean(1).to(x)

    def turn_theirs(x: Tensor) -> Tensor:
        return kornia.geometry.transform.rotate(x, x.new_full((len(x),), 90.0))

    return [
        Row(
            "rotation of a vector",
            removed_rotation,
            rigid.rotation,
            (v,),
            "kornia",
            exact_rotation,
            turns,
        ),
        Row(
            "vector of a rotation",
            removed_rotation_vector,
            rigid.rotation_vector,
            (R,),
            "kornia",
            lambda R: v.double().numpy() if len(R) == count else np.concatenate(turns),
        ),
        Row(
            "matrices of quaternions",
            removed_rotation_matrices,
            rotations.rotation_matrices,
            (q,),
            "kornia",
        ),
        Row(
            "quaternion of a vector",
            removed_of_rotation_vector,
            rotations.of_rotation_vector,
            (v,),
            "kornia",
            exact_quaternion,
            turns,
        ),
        Row(
            "perspective lens",
            removed_perspective,
            lens.distort,
            (rays,),
            "kornia",
            exact_lens(exact_perspective),
            (torch.zeros(1, 2),),
        ),
        Row(
            "fisheye lens",
            removed_fisheye,
            fisheye.distort,
            (rays,),
            "kornia",
            exact_lens(exact_fisheye),
            (torch.zeros(1, 2), 1e-9 * rays[:9]),
        ),
        Row(
            "resampling of a picture",
            resample,
            lambda x, s: kornia.geometry.transform.remap(
                x, *(s - 0.5).unbind(-1), "bicubic", "border", align_corners=True
            ),
            (grey, source),
            "ours: same length",
        ),
        Row("grey picture", removed_grey, kornia.color.rgb_to_grayscale, (color,), "kornia"),
        Row(
            "product of quaternions",
            rotations.product,
            lambda a, b: (Quaternion(a) * Quaternion(b)).data,
            (q, p),
            "ours: time",
        ),
        Row(
            "skew matrix",
            rigid.skew,
            conversions.vector_to_skew_symmetric_matrix,
            (v,),
            "ours: time",
        ),
        Row(
            "motion of R and t",
            rigid.rigid,
            lambda R, t: conversions.Rt_to_matrix4x4(R, t[..., None]),
            (R, v),
            "ours: as short",
        ),
        Row(
            "inverse motion",
            rigid.inverse,
            kornia.geometry.inverse_transformation,
            (poses,),
            "ours: 2 lines, any axes in front",
        ),
        Row(
            "points moved by 64 motions",
            lambda M: rigid.transform(M, v[:1000].to(M)),
            lambda M: kornia.geometry.transform_points(M, v[:1000].to(M).expand(len(M), -1, -1)),
            (cameras.world_to_camera,),
            "ours: time",
        ),
        Row(
            "projection by 64 cameras",
            project,
            project_theirs,
            (cameras.world_to_camera,),
            "ours: as short",
        ),
        Row("SSIM, pictures", it.metrics.ssim, ssim, (color, noisy), "ours: time"),
        Row("SSIM, volumes", it.metrics.ssim, ssim, (volume, volume + 0.1), "ours: time"),
        Row(
            "derivative of the SSIM map",
            gradient(similarity_map),
            gradient(lambda a, b: kornia.metrics.ssim(a, b, 11, 1.0, eps=0.0)),
            (color[..., :96, :96].contiguous(), noisy[..., :96, :96].contiguous()),
            "ours: time",
        ),
        Row(
            "PSNR",
            it.metrics.psnr,
            lambda x, y: kornia.metrics.psnr(x, y, 1.0)[None].expand(4),
            (color, noisy),
            "ours: one value per item",
        ),
        Row(
            "Otsu's threshold",
            it.metrics.otsu_threshold,
            lambda x: kornia.filters.otsu_threshold(x)[1].flatten(),
            (grey,),
            "ours: scikit-image's definition",
        ),
        Row(
            "end-point error",
            it.metrics.end_point_error,
            lambda a, b: kornia.metrics.aepe(a, b)[None].expand(4) if a.shape[-1] == 2 else None,
            (normal(4, 5000, 2), normal(4, 5000, 2)),
            "ours: one value per item, 3D",
        ),
        Row(
            "anisotropic total variation",
            tv.energy,
            lambda x: kornia.losses.total_variation(x)[:, 0],
            (grey,),
            "ours: prox, volumes",
        ),
        Row(
            "blur by 9 x 9 pixels",
            blur,
            lambda x: kornia.filters.filter2d(
                x, torch.ones(1, 9, 9, dtype=x.dtype) / 81, "reflect"
            ),
            (grey,),
            "ours: adjoint, norm, complex, volumes",
        ),
        Row(
            "forward differences",
            FiniteDifference((1, 256, 256)),
            lambda x: torch.cat(
                [
                    F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1)),
                    F.pad(x[..., 1:] - x[..., :-1], (0, 1)),
                ],
                1,
            ),
            (grey,),
            "ours: kornia has central ones only (torch.cat here)",
        ),
        Row(
            "dilation by 7 x 7",
            lambda x: F.max_pool2d(x, 7, 1, 3),
            lambda x: kornia.morphology.dilation(x, torch.ones(7, 7, dtype=x.dtype)),
            (grey,),
            "ours: torch's pooling, once per scene",
        ),
        Row(
            "quarter turn of a picture",
            lambda x: torch.rot90(x, 1, (-2, -1)),
            turn_theirs,
            (grey,),
            "ours: torch's rot90, time, exact",
        ),
    ]


# -- measurement


def error(row: Row, function: Callable[..., Any]) -> float:
    """Return the largest error in float64, relative to the largest value."""
    inputs = [[part.double() for part in row.inputs]]
    if row.name == "vector of a rotation":
        v = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)).double()
        v = v / v.norm(dim=1, keepdim=True) * v.norm(dim=1, keepdim=True).clamp_max(3.1)
        R = torch.from_numpy(exact_rotation(v).astype(np.float64))
        return float((function(R) - v).abs().max() / v.abs().max())
    worst = 0.0
    for given in [*inputs, *([part.double()] for part in row.special)]:
        found = function(*given)
        wanted = row.exact(*given) if row.exact else row.ours(*given).numpy()
        scale = max(float(np.abs(wanted).max()), 1e-300)
        worst = max(worst, float(np.abs(found.detach().numpy() - wanted).max()) / scale)
    return worst


def same_bits(row: Row, function: Callable[..., Any]) -> bool:
    whole = function(*row.inputs)
    picks = (0, len(row.inputs[0]) - 1)
    return all(
        torch.equal(function(*(part[k : k + 1] for part in row.inputs))[0], whole[k]) for k in picks
    )


def seconds(row: Row) -> list[float]:
    """Measure both functions in turn."""
    calls = (row.ours, row.theirs)
    best = [float("inf")] * 2
    for _ in range(10):
        for k, call in enumerate(calls):
            began = time.thread_time()
            call(*row.inputs)
            best[k] = min(best[k], time.thread_time() - began)
    return best


def finite_gradient(row: Row, function: Callable[..., Any]) -> str:
    if not row.special:
        return "-"
    x = torch.zeros(1, row.inputs[0].shape[1], dtype=torch.float64, requires_grad=True)
    return "yes" if bool(torch.autograd.grad(function(x).sum(), x)[0].isfinite().all()) else "NO"


def import_seconds() -> str:
    code = "import torch, time; t = time.process_time(); import kornia.geometry; print(time.process_time() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    return f"{sorted(runs)[2]:.2f} s"


def main() -> None:
    torch.set_num_threads(1)
    print(f"kornia {kornia.__version__}; {machine()}")
    print(
        f"import kornia.geometry after torch: {import_seconds()}, paid at the first call that needs it"
    )
    code = "import invtoolbox, sys; assert 'kornia' not in sys.modules"
    lazy = subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
    print(f"import invtoolbox imports no kornia {verdict(lazy, 'lazy')}")
    head = ("function", "error", "kornia's", "f'(0)", "ms", "kornia's", "ratio", "bits", "used")
    widths = (28, 8, 9, 6, 9, 9, 6, 9, 40)
    print("  ".join(f"{name:<{width}}" for name, width in zip(head, widths)))
    for row in rows():
        ours, theirs = seconds(row)
        alone = "/".join("yes" if same_bits(row, f) else "no" for f in (row.ours, row.theirs))
        cells = (
            row.name,
            f"{error(row, row.ours):.0e}" if row.exact else "-",
            f"{error(row, row.theirs):.0e}",
            finite_gradient(row, row.theirs),
            f"{1e3 * ours:.3f}",
            f"{1e3 * theirs:.3f}",
            f"{theirs / ours:.2f}",
            alone,
            row.kept,
        )
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)).rstrip())


if __name__ == "__main__":
    main()
