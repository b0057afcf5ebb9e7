"""Small sets of pictures with poses, one of each format, of one scene: points that are seen by three cameras."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from invtoolbox.datasets import SparseCamera, SparseModel, write_colmap, write_png
from invtoolbox.geometry.cameras import Cameras, look_at
from invtoolbox.geometry.lens import Lens
from invtoolbox.geometry.rigid import inverse, rotation_vector

SIZE = (12, 16)
LENSES = (Lens(radial=(0.05, -0.01), tangential=(0.002, -0.001)), Lens())


def cameras() -> Cameras:
    centres = torch.tensor(
        [[0.0, -1.0, -4.0], [1.5, -1.0, -3.5], [-1.0, 0.5, -4.2]], dtype=torch.float64
    )
    return look_at(centres, size=SIZE, field_of_view=40.0)


def model(lenses: tuple[Lens, ...] = LENSES) -> SparseModel:
    """Three pictures of two cameras, twelve points, each seen by two or three of them, exactly where it is."""
    views = cameras()
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(12, 3, generator=generator, dtype=torch.float64) - 0.5
    camera_of = torch.tensor([0, 1, 0])
    taller = [
        torch.tensor([[1.0], [1.0 + 0.1 * k], [1.0]], dtype=torch.float64)
        for k in range(len(lenses))
    ]
    kinds = tuple(
        SparseCamera(views.intrinsics[0] * factor, SIZE, lens)
        for factor, lens in zip(taller, lenses)
    )
    pairs = torch.tensor([[p, k] for k in range(3) for p in range(12) if (p + k) % 5])
    zeros = torch.zeros(len(pairs), 2, dtype=torch.float64)
    colors = torch.randint(0, 256, (12, 3), generator=generator, dtype=torch.uint8)
    exact = SparseModel(
        kinds,
        ("a.png", "b b.png", "c.png"),
        views.world_to_camera,
        camera_of,
        points,
        colors,
        zeros,
        pairs[:, 1],
        pairs[:, 0],
    )
    return replace(exact, pixels=exact.project())


def write_pictures(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        write_png(
            folder / name,
            torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(k)),
            value_range=(0, 1),
            overwrite=True,
        )


def write_colmap_project(path: Path, binary: bool = True) -> Path:
    one = model()
    write_pictures(path / "images", one.names)
    write_colmap(path / "sparse" / "0", one, binary)
    return path


def write_colmap_text(path: Path) -> Path:
    return write_colmap_project(path, binary=False)


def write_nerfstudio(path: Path) -> Path:
    views, names = cameras(), ("0.png", "1.png", "2.png")
    write_pictures(path / "images", names)
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])).double()
    K = views.intrinsics[0]
    poses = inverse(views.world_to_camera) @ flip
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": pose.tolist()}
        for name, pose in zip(names, poses)
    ]
    table = {
        "camera_model": "OPENCV",
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "w": SIZE[1],
        "h": SIZE[0],
        "k1": 0.05,
        "p1": 0.001,
        "aabb_scale": 2,
        "frames": frames,
    }
    (path / "transforms.json").write_text(json.dumps(table))
    return path


def write_blender(path: Path) -> Path:
    write_nerfstudio(path)
    table = json.loads((path / "transforms.json").read_text())
    (path / "transforms.json").unlink()
    (path / "transforms_train.json").write_text(
        json.dumps({"camera_angle_x": 0.698, "frames": table["frames"]})
    )
    return path


def write_opensfm(path: Path) -> Path:
    """As OpenSfM writes it: normalized coordinates, angle-axis rotations."""
    one = model((Lens(radial=(0.05, -0.01)), Lens()))
    write_pictures(path / "images", one.names)
    write_png(path / "masks.png", torch.ones(1, *SIZE), value_range=(0, 1), overwrite=True)
    (path / "masks").mkdir()
    (path / "masks.png").rename(path / "masks" / "c.png.png")
    side = max(SIZE)
    kinds = {}
    for k, camera in enumerate(one.cameras):
        lens, K = camera.lens, camera.intrinsics
        assert lens is not None
        k1, k2 = (*lens.radial, 0.0, 0.0)[:2]
        kinds[f"camera {k}"] = {
            "projection_type": "brown",
            "width": SIZE[1],
            "height": SIZE[0],
            "focal_x": float(K[0, 0]) / side,
            "focal_y": float(K[1, 1]) / side,
            "c_x": (float(K[0, 2]) - SIZE[1] / 2) / side,
            "c_y": (float(K[1, 2]) - SIZE[0] / 2) / side,
            "k1": k1,
            "k2": k2,
            "k3": 0.0,
            "p1": 0.0,
            "p2": 0.0,
        }
    shots = {
        name: {
            "rotation": rotation_vector(M[:3, :3]).tolist(),
            "translation": M[:3, 3].tolist(),
            "camera": f"camera {int(k)}",
        }
        for name, M, k in zip(one.names, one.world_to_camera, one.camera_of)
    }
    colors = one.colors.double()
    points = {
        str(100 + k): {"coordinates": p.tolist(), "color": c.tolist()}
        for k, (p, c) in enumerate(zip(one.points, colors))
    }
    (path / "reconstruction.json").write_text(
        json.dumps([{"cameras": kinds, "shots": shots, "points": points}])
    )
    lines = ["OPENSFM_TRACKS_VERSION_v2", "nowhere.jpg\t100\t1\t0.1\t0.1\t0.001\t0\t0\t0\t-1\t-1"]
    for (x, y), k, p in zip(one.pixels.tolist(), one.picture_of.tolist(), one.point_of.tolist()):
        lines.append(
            f"{one.names[k]}\t{100 + p}\t7\t{(x - SIZE[1] / 2) / side!r}\t{(y - SIZE[0] / 2) / side!r}\t0.001\t9\t9\t9\t-1\t-1"
        )
    (path / "tracks.csv").write_text("\n".join(lines) + "\n")
    return path


def write_llff(path: Path) -> Path:
    views = cameras()
    write_pictures(path / "images", ("0.png", "1.png", "2.png"))
    to_world = inverse(views.world_to_camera)
    rows = []
    for M, K in zip(to_world, views.intrinsics):
        right, down, forward, centre = M[:3].T
        last = torch.tensor(
            [2.0 * SIZE[0], 2.0 * SIZE[1], 2 * float(K[0, 0])]
        ).double()  # of pictures that were twice as large
        rows.append(
            torch.cat(
                [
                    torch.stack([down, right, -forward, centre, last], 1).flatten(),
                    torch.tensor([2.0, 6.0]).double(),
                ]
            )
        )
    np.save(path / "poses_bounds.npy", torch.stack(rows).numpy())
    return path


def write_rgbd(path: Path) -> Path:
    """A wall at z = 1, seen by three cameras; the trajectory has a fourth frame without a picture."""
    views = cameras()
    names = ("00000.png", "00003.png", "00006.png")
    write_pictures(path / "image", names)
    (path / "depth").mkdir()
    origins, directions = views.rays()
    depth = (1 - origins[..., 2]) / directions[..., 2]
    from skimage import io

    for name, values in zip(names, depth):
        io.imsave(
            path / "depth" / name,
            (1000 * values).round().numpy().astype(np.uint16),
            check_contrast=False,
        )
    lines = []
    for number, M in zip((0, 3, 6, 7), [*inverse(views.world_to_camera), torch.eye(4).double()]):
        lines += [
            f"{number} {number} {number + 1}",
            *(" ".join(f"{v:.9f}" for v in row) for row in M.tolist()),
        ]
    (path / "trajectory.log").write_text("\n".join(lines) + "\n")
    K = views.intrinsics[0].clone()
    K[:2, 2] -= 0.5
    table = {"width": SIZE[1], "height": SIZE[0], "intrinsic_matrix": K.T.flatten().tolist()}
    (path / "camera_intrinsic.json").write_text(json.dumps(table))
    return path


#: A writer of each format, by the name of its reader.
SETS = {
    "views transforms": ("transforms", write_nerfstudio),
    "views blender": ("blender", write_blender),
    "views colmap": ("colmap", write_colmap_project),
    "views colmap text": ("colmap", write_colmap_text),
    "views llff": ("llff", write_llff),
    "views opensfm": ("opensfm", write_opensfm),
    "views rgbd": ("rgbd", write_rgbd),
}
