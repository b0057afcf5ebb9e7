"""Surfaces: normals of sampled planes, also where a lidar's lines sample them."""

import torch

from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.surface_normals import Surface, _variances, covariances, normals


def test_closed_form_of_eigenvalues():
    torch.manual_seed(0)
    points = torch.randn(500, 10, 3, dtype=torch.float64) * torch.tensor(
        [1.0, 0.3, 0.01], dtype=torch.float64
    )
    turned = points @ rotation(torch.randn(500, 3, dtype=torch.float64))
    matrices = turned.transpose(1, 2) @ turned
    values, vector = _variances(matrices)
    expected, axes = torch.linalg.eigh(matrices)
    torch.testing.assert_close(values, expected, atol=1e-12, rtol=1e-9)
    assert float((vector * axes[:, :, 0]).sum(1).abs().min()) > 1 - 1e-9


def test_degenerate_neighbourhoods_have_some_normal():
    for matrix in (
        torch.zeros(1, 3, 3),
        torch.eye(3)[None],
        torch.diag(torch.tensor([1.0, 0.0, 0.0]))[None],
    ):
        values, vector = _variances(matrix.double())
        assert values.isfinite().all()
        torch.testing.assert_close(vector.norm(dim=1), torch.ones(1, dtype=torch.float64))


def test_a_plane_seen_along_lines_has_its_normal():
    # Lines 0.4 m apart with a point every 2 cm: the sixteen nearest neighbours of a point all lie
    # on its own line.
    along, lines = torch.meshgrid(torch.arange(0, 4, 0.02), torch.arange(0, 4, 0.4), indexing="ij")
    flat = torch.stack([along.flatten(), lines.flatten(), torch.zeros(along.numel())], 1)
    turn = rotation(torch.tensor([0.3, -0.5, 0.2]))
    normal, thickness = normals(flat @ turn.T)
    assert float((normal @ turn[:, 2]).abs().min()) > 0.999
    assert float(thickness.max()) < 1e-3


def test_covariances_are_thin_across_and_one_along():
    torch.manual_seed(0)
    points = torch.rand(400, 3) * torch.tensor([4.0, 4.0, 0.0])
    spread = covariances(points, along=0.01)
    torch.testing.assert_close(
        spread, torch.diag(torch.tensor([1.0, 1.0, 0.01])).expand(400, 3, 3), atol=1e-4, rtol=0
    )
    rows = torch.tensor([7, 3])
    torch.testing.assert_close(covariances(points, along=0.01, rows=rows), spread[rows])


def test_points_of_another_time_are_no_neighbours():
    torch.manual_seed(0)
    first, second = (
        torch.rand(300, 3) * torch.tensor([3.0, 3.0, 0.0]),
        torch.rand(300, 3) * torch.tensor([3.0, 0.0, 3.0]),
    )
    times = torch.tensor([0.0, 1.0]).repeat_interleave(300)
    surface = Surface.of(torch.cat([first, second]), times)
    thin = surface.covariances.diagonal(dim1=1, dim2=2).argmin(1)
    assert (thin[:300] == 2).all() and (thin[300:] == 1).all()


def test_turning_the_frame_turns_the_normals():
    torch.manual_seed(0)
    # Walls seen along lines, so that cells thin them: the axes of the frame must not matter.
    along, lines = torch.meshgrid(torch.arange(0, 6, 0.02), torch.arange(0, 3, 0.3), indexing="ij")
    wall = torch.stack([along.flatten() + 4, along.flatten() * 0.3 + 2, lines.flatten()], 1)
    wall = wall + 0.01 * torch.randn_like(wall)
    normal, thickness = normals(wall)
    for degrees in (30.0, 77.0):
        turn = rotation(torch.tensor([0.0, 0.0, degrees * torch.pi / 180]))
        turned, same = normals(wall @ turn.T)
        agree = ((turned @ turn) * normal).sum(1).abs()
        assert float((agree > 1 - 1e-4).float().mean()) > 0.99
        assert float(((same - thickness).abs() < 1e-3).float().mean()) > 0.99


def test_points_in_double_precision_are_not_changed():
    points = torch.rand(300, 3, dtype=torch.float64) * torch.tensor([4.0, 4.0, 0.0]).double()
    before = points.clone()
    normal, _ = normals(points)
    assert torch.equal(points, before)
    assert float(normal[:, 2].abs().min()) > 0.999
