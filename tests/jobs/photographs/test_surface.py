"""Surfaces of flat Gaussians: their mesh, their priors, and a short training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from invtoolbox.datasets import PosedPictures
from invtoolbox.geometry import Mesh, look_at
from invtoolbox.geometry.rotations import rotation_matrices
from invtoolbox.jobs.photographs import GaussianModel, Photographs, Stage, solve_in_stages
from invtoolbox.jobs.photographs.surface import fit_silhouettes, mesh_scene
from invtoolbox.priors import Gaussians, NormalConsistency
from invtoolbox.solvers import Adam

CAMERAS = look_at(
    3 * functional.normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(1)), dim=1),
    size=(64, 64),
    field_of_view=45.0,
)
MODEL = GaussianModel((-1.1,) * 3, (1.1,) * 3, 1.0, flat=True, strategy="none", opacity=0.9)


def ball(flat: bool) -> Gaussians:
    """Gaussians on the unit sphere."""
    points = torch.randn(1500, 3, generator=torch.Generator().manual_seed(0))
    points = functional.normalize(points, dim=1)
    return Gaussians(
        points, points / 2 + 0.5, degree=0, strategy=None, opacity=0.9, scale=0.06, flat=flat
    )


def test_flat_gaussians_start_in_the_planes_of_their_neighbours() -> None:
    prior = ball(flat=True)
    leaves = {n: t.requires_grad_(True) for n, t in prior.initial().items()}
    x = prior.decode(leaves)
    axes = rotation_matrices(x.quats[0])
    facing = (axes.detach()[:, :, 2] * x.means[0]).sum(1).abs()
    assert float(facing.detach().min()) > 0.95
    assert torch.allclose(x.scales[..., 2], 0.01 * x.scales[..., 0])
    slope = torch.autograd.grad(x.scales.sum(), leaves["log_scales"])[0]
    assert bool((slope[..., 2] == 0).all()) and bool((slope[..., :2] > 0).all())
    both = Gaussians(torch.stack([prior.points[0], prior.points[0].flip(1)]), flat=True).initial()
    assert torch.equal(both["quats"][:1], prior.initial()["quats"])  # an item alone and in a batch


def test_the_mesh_of_flat_gaussians_lies_in_their_planes() -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    errors = {}
    for flat in (True, False):
        prior = ball(flat)
        model = MODEL.change({"flat": flat})
        mesh = mesh_scene(model, prior.decode(prior.initial()), CAMERAS, resolution=64)
        errors[flat] = float((mesh.vertices.norm(dim=1) - 1).abs().mean())
    assert errors[True] < 0.012 and errors[True] < 0.4 * errors[False]


def test_a_mesh_moves_to_the_silhouettes_of_the_scene() -> None:
    """A ball that is too small, by more on one side, in the pictures of the unit ball."""
    pytest.importorskip("open3d", exc_type=ImportError)
    icosphere = pytest.importorskip("trimesh").creation.icosphere(subdivisions=4)
    ball = Mesh.of(icosphere)
    sphere = functional.normalize(ball.vertices.float(), dim=1)
    small = Mesh(sphere * (0.975 + 0.01 * sphere[:, :1]), ball.faces)
    origins, directions = CAMERAS.rays()
    nearest = torch.linalg.cross(origins, directions).norm(dim=-1) / directions.norm(dim=-1)
    depths = torch.where(nearest < 1, 3.0, 0.0)[:, None]
    radius = fit_silhouettes(small, CAMERAS, depths).vertices.norm(dim=1)
    assert float((radius - 1).abs().mean()) < 0.005 and float((radius - 1).abs().max()) < 0.02
    # Pictures that the scene fills say nothing about the mesh.
    assert fit_silhouettes(small, CAMERAS, torch.full_like(depths, 3.0)) is small


def test_a_stage_of_flat_gaussians_makes_their_normals_consistent() -> None:
    prior = ball(flat=True)
    x = prior.decode(prior.initial())
    look = MODEL.look(x, CAMERAS)
    pictures = PosedPictures(CAMERAS, look.color - (1 - look.alpha), look.alpha)
    start = MODEL.change({"cloud": (prior.points[0], None), "degree": 0, "length": 40})
    energies = {}
    for weight in (0.0, 1.0):
        model = start.change({"consistency": weight})
        found = solve_in_stages(
            model,
            Photographs(pictures, pictures[:0]),
            [Stage(40)],
            Adam(subset_size=1, epsilon=1e-15),
            progress=False,
        )
        judge = NormalConsistency(CAMERAS) @ model.operator(
            CAMERAS, ("normal", "alpha", "plane_depth")
        )
        energies[weight] = float(judge.energy(found.x))
    assert energies[1.0] < 0.8 * energies[0.0]
    assert MODEL.change({"flat": False}).regularizer(pictures, None) is None


def test_silhouettes_of_flat_gaussians_do_not_swell_by_the_blur() -> None:
    prior = ball(flat=True)
    prior.opacity = 0.999
    x = prior.decode(prior.initial())
    camera = look_at(torch.tensor([[0.0, 0.0, -3.0]]), size=(32, 32), field_of_view=45.0)
    focal, tangent = float(camera.intrinsics[0, 0, 0]), 1 / 8**0.5
    radii = {}
    for name, renderer in (("own", {}), ("usual", {"antialiased": False, "blur": 0.3})):
        A = MODEL.change({"renderer": renderer}).operator(camera, ("alpha",))
        radii[name] = (float(A(x).sum()) / torch.pi) ** 0.5 - focal * tangent
    assert 0 < radii["own"] < 0.5 < 1 < radii["usual"]  # pixels
    assert "blur=0.1" in repr(MODEL.operator(camera))
