"""Clusters, votes, and bodies that move: found, registered, and told from what only seems to move."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from invtoolbox.errors import InputError
from invtoolbox.jobs.flow.bodies import BodySettings, moving_bodies
from invtoolbox.jobs.flow.clusters import Cloud, are_alone, clusters, height_above, translations
from invtoolbox.jobs.flow.estimation import estimate
from invtoolbox.jobs.flow.evidence import Evidence
from invtoolbox.jobs.flow.sensor import Rays
from invtoolbox.jobs.flow.window import Neighbour, Pair
from invtoolbox.simulation import SimulatedSequence, SpinningLidar
from invtoolbox.simulation.places import garage, highway


def box(size, at, count, seed):
    """Points on the sides and the roof of a box that stands on the ground."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator)
    axis = torch.randint(0, 3, (count,), generator=generator)
    side = torch.where(
        axis == 2, torch.ones(count), torch.randint(0, 2, (count,), generator=generator).float()
    )
    points = points.scatter(1, axis[:, None], side[:, None])
    return (points - torch.tensor([0.5, 0.5, 0.0])) * torch.tensor(size) + torch.tensor(at)


def street(shift, seed):
    """A wall, a parked car and a car that has moved; other points of the same surfaces for every seed."""
    return torch.cat(
        [
            box([30.0, 0.3, 2.5], [0.0, 8.0, 0.0], 3000, seed),
            box([4.0, 1.8, 1.5], [6.0, 3.0, 0.0], 800, seed + 1),
            box([4.2, 1.8, 1.4], [-6.0 + shift[0], -3.0 + shift[1], 0.0], 900, seed + 2),
        ]
    )


def bodies(here, there, window=(), period=0.1):
    return moving_bodies(Pair(here, there, torch.zeros(0, 3), period=period, window=window))


def test_the_moving_car_alone_is_found():
    here, there = street((0.0, 0.0), 0), street((0.9, 0.1), 10)
    found = bodies(here, there)
    moves = torch.arange(len(here)) >= 3800
    assert torch.equal(found.label >= 0, moves) and len(found.motion) == 1
    torch.testing.assert_close(
        found.flow[moves].mean(0), torch.tensor([0.9, 0.1, 0.0]), atol=0.02, rtol=0
    )
    assert not bool(found.flow[~moves].any())


def test_nothing_moves_where_nothing_moved():
    here, there = street((0.0, 0.0), 0), street((0.0, 0.0), 10)
    assert len(bodies(here, there).motion) == 0


def test_a_thing_that_has_gone_is_not_moved_onto_something_else():
    here, there = street((0.0, 0.0), 0), street((0.0, 0.0), 10)[:3800]
    assert len(bodies(here, there).motion) == 0


def test_no_points_and_no_clusters():
    none, few = torch.zeros(0, 3), torch.rand(5, 3)
    for here, there in ((none, few), (few, none), (few, few)):
        found = bodies(here, there)
        assert len(found.motion) == 0 and found.flow.shape == here.shape


def test_clusters_hold_together_below_and_not_above():
    car, crown = (
        box([4.0, 1.8, 1.5], [0.0, 0.0, 0.0], 500, 0),
        box([6.0, 6.0, 2.0], [2.0, 0.0, 4.0], 500, 1),
    )
    other = box([4.0, 1.8, 1.5], [5.5, 0.0, 0.0], 500, 2)
    points = torch.cat([car, crown, other])
    labels = clusters(points, points[:, 2])
    assert (
        labels[:500].unique().tolist() == [0]
        and labels[500:1000].unique().tolist() == [-1]
        and labels[1000:].unique().tolist() == [1]
    )


def test_height_follows_a_slope_and_reaches_over_gaps():
    x, y = torch.meshgrid(torch.arange(-20.0, 20.0), torch.arange(-20.0, 20.0), indexing="ij")
    ground = torch.stack([x.flatten(), y.flatten(), 0.05 * x.flatten()], 1)
    points = torch.tensor([[11.0, 1.0, 1.525], [-9.0, 5.0, -0.475]])
    torch.testing.assert_close(
        height_above(points, ground), torch.tensor([1.0, 0.0]), atol=0.06, rtol=0
    )
    far = torch.tensor([[200.0, 0.0, 1.95]])
    torch.testing.assert_close(height_above(far, ground), torch.tensor([1.0]), atol=0.06, rtol=0)
    stray = torch.cat([ground, points, torch.tensor([[3.0, 3.0, -5.0]])])
    alone = height_above(stray, ground[:0])[len(ground) : -1]
    torch.testing.assert_close(alone, torch.tensor([1.0, 0.0]), atol=0.06, rtol=0)


def test_votes_find_the_translation_and_the_order_of_points_does_not_matter():
    here, there = (
        box([4.0, 1.8, 1.5], [0.0, 0.0, 0.0], 400, 0),
        box([4.0, 1.8, 1.5], [1.2, -0.7, 0.0], 400, 1),
    )
    (votes,) = translations([here], [there], [3.0])
    assert np.abs(votes[0] - [1.2, -0.7]).max() <= 0.15 and len(votes) <= 4
    assert np.array_equal(votes, translations([here.flip(0)], [there.flip(0)], [3.0])[0])
    assert translations([here], [there[:0]], [3.0])[0].shape == (0, 2)


def test_a_body_votes_alone_as_among_others():
    """Bodies of different sizes and reaches, one of them without points near it."""
    here = [box([4.0, 1.8, 1.5], [5.0 * k, 3.0, 0.0], 30 + 40 * k, k) for k in range(4)]
    there = [body + torch.tensor([0.3 * k, 0.5, 0.0]) for k, body in enumerate(here)]
    there[2] = there[2][:0]
    farthest = [1.0, 3.0, 2.0, 12.5]
    together = translations(here, there, farthest, 3, torch.tensor([-2.0, 1.0, 0.0]))
    for k in range(4):
        alone = translations(
            here[k : k + 1],
            there[k : k + 1],
            farthest[k : k + 1],
            3,
            torch.tensor([-2.0, 1.0, 0.0]),
        )
        assert np.array_equal(alone[0], together[k])
        if k != 2:
            assert np.abs(together[k][0] - [0.3 * k, 0.5]).max() <= 0.15
    assert together[2].shape == (0, 2)


def test_wrong_settings():
    with pytest.raises(InputError, match="positive"):
        BodySettings(reach=0.0)


def test_a_stray_point_far_away_costs_nothing():
    points = torch.cat(
        [box([4.0, 1.8, 1.5], [0.0, 0.0, 0.0], 300, 0), torch.tensor([[900.0, -900.0, 1.0]])]
    )
    labels = clusters(points, height_above(points, points[:1] * torch.tensor([1.0, 1.0, 0.0])))
    assert labels.tolist() == [1] * 300 + [0] or labels.tolist() == [0] * 300 + [1]


def test_a_car_at_150_km_h_and_a_pair_half_a_second_apart():
    for period, shift in ((0.1, (4.15, 0.3)), (0.5, (6.9, 0.4))):
        here, there = street((0.0, 0.0), 0), street(shift, 10)
        found = bodies(here, there, period=period)
        assert len(found.motion) == 1
        torch.testing.assert_close(
            found.flow[3800:].mean(0), torch.tensor([*shift, 0.0]), atol=0.03, rtol=0
        )


def test_clusters_are_those_of_single_linkage():
    plane = 6 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    plane = torch.cat([plane, plane[:5], torch.tensor([[20.0, 0.0], [20.4, 0.0], [20.9, 0.0]])])
    points = torch.nn.functional.pad(plane, (0, 1))
    labels = clusters(points, points[:, 2], gap_per_range=0.0)
    expected = fcluster(linkage(plane.numpy()), 0.45, "distance")
    pairs = torch.stack([labels, torch.from_numpy(expected)], 1).unique(dim=0)
    assert len(pairs) == len(labels.unique()) == expected.max() > 3
    for line in (points[-3:], points[-1:]):  # points on one line
        assert clusters(line, line[:, 2]).tolist() == [0, 0, 1][: len(line)]


def test_bodies_do_not_depend_on_the_frame_or_on_other_points(monkeypatch):
    here, there = street((0.9, 0.1), 0), street((1.8, 0.2), 10)
    # The rays are those of one sensor; they are estimated from all points of a sweep.
    rays = Rays.of(here)
    monkeypatch.setattr(Rays, "of", lambda points: rays)
    found = bodies(here, there)
    c, s = np.cos(0.02), np.sin(0.02)
    turn = torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float32)
    turned = bodies(here @ turn, there @ turn)
    assert torch.equal(turned.label, found.label)
    torch.testing.assert_close(turned.flow @ turn.T, found.flow, atol=2e-3, rtol=0)
    wall = box([10.0, 0.3, 2.0], [20.0, -20.0, 0.0], 1000, 5)
    more = bodies(torch.cat([here, wall]), torch.cat([there, wall]))
    assert torch.equal(more.label[: len(here)], found.label)
    torch.testing.assert_close(more.flow[: len(here)], found.flow, atol=2e-3, rtol=0)


def test_a_pedestrian_too_slow_for_a_pair_is_found_in_a_window():
    def sweep(step):
        wall = box([12.0, 0.3, 2.5], [0.0, 4.0, 0.0], 1500, 10 * step + 50)
        return torch.cat([wall, box([0.4, 0.4, 1.7], [0.15 * step, 0.0, 0.0], 60, 10 * step + 51)])

    window = tuple(Neighbour(sweep(step), float(step)) for step in (-2, -1, 2))
    found = bodies(sweep(0), sweep(1), window)
    walks = torch.arange(1560) >= 1500
    assert bool((found.label >= 0)[walks].all()) and not bool((found.label >= 0)[~walks].any())
    error = found.flow[walks].mean(0) - torch.tensor([0.15, 0.0, 0.0])
    assert float(error.norm()) < 0.03


def test_a_trunk_that_is_hidden_for_a_while_stays_at_rest():
    def sweep(seed, shift):
        wall = box([12.0, 0.3, 2.5], [0.0, 4.0, 0.0], 1500, seed)
        return torch.cat([wall, box([0.2, 0.2, 2.9], [shift, 0.0, 0.0], 25, seed + 1)])

    window = (Neighbour(sweep(20, -0.8), -1.0), Neighbour(sweep(30, 1.6), 2.0))
    assert len(bodies(sweep(0, 0.0), sweep(10, 0.8), window).motion) == 0


def test_motion_counts_over_the_time_between_the_measurements():
    """A lidar that turns meets a car that crosses its view earlier in the second sweep."""
    here, there = (box([4.2, 1.8, 1.4], [s, -3.0, 0.0], 200, k) for k, s in ((0, 0.0), (1, 0.9)))
    times = (torch.full((200,), 0.05), torch.full((200,), 0.045))
    found = moving_bodies(Pair(here, there, torch.zeros(0, 3), times))
    plain = moving_bodies(Pair(here, there, torch.zeros(0, 3)))
    ratio = found.flow[:, 0].mean() / plain.flow[:, 0].mean()
    assert float(ratio) == pytest.approx(1 / 0.95, abs=0.01)


def test_a_person_below_a_branch_is_no_post_and_a_single_line_no_body():
    branch = torch.tensor([[0.0, 0.0, 2.9]])

    def sweep(step, seed):
        person = box([0.5, 0.4, 1.7], [0.3 * step, 3.0, 0.0], 90, seed)
        line = torch.rand(30, 3, generator=torch.Generator().manual_seed(seed))
        line = line * torch.tensor([1.0, 0.3, 0.01]) + torch.tensor([8.0 + step, 0.0, 0.3])
        return torch.cat([person, branch + torch.tensor([0.3 * step, 3.0, 0.0]), line])

    label = bodies(sweep(0, 0), sweep(1, 10)).label
    assert bool((label[:90] >= 0).all()) and not bool((label[91:] >= 0).any())


@pytest.mark.parametrize(("place", "seed"), ((highway, 800), (garage, 802)))
def test_rails_and_ceilings_never_travel_with_the_sensor(place, seed):
    lidar = SpinningLidar(48, 1200, (-24.0, 6.0), noise_std=0.025)
    sweeps = SimulatedSequence(place(seed), lidar, 20, seed)
    source, target, *window = (sweeps[k] for k in (14, 15, 12, 13, 16))
    found = estimate(source, target, window=window)
    still = ~source.labels.dynamic
    # A twentieth of a body may be points of what stands beside it.
    assert float(found.dynamic[still].double().mean()) < 0.001
    assert float(found.dynamic[~still & ~found.ground].double().mean()) > 0.5


def test_a_rail_goes_on_and_a_lorry_ends():
    rail = torch.stack([torch.arange(0.0, 40.0, 0.4), torch.full((100,), 5.0), torch.zeros(100)], 1)
    lorry = torch.stack([torch.arange(0.0, 8.0, 0.2), torch.full((40,), -4.0), torch.ones(40)], 1)
    points = torch.cat([rail, lorry])
    piece, whole = torch.arange(30, 60), torch.arange(100, 140)
    evidence = Evidence.of(points, [piece, whole], 0.1, torch.zeros(3), BodySettings(), Rays())
    way, other = torch.tensor([2.0, 0.0, 0.0]), Neighbour(points, 1.0)
    assert evidence._goes_on(piece, way, other) and not evidence._goes_on(whole, way, other)
    # Across itself, a piece of rail shows its motion.
    assert not evidence._goes_on(piece, torch.tensor([0.0, 2.0, 0.0]), other)


def test_a_ceiling_is_infinitely_high_and_a_drop_of_rain_alone():
    side = torch.arange(-12.0, 12.0, 0.25)
    floor = torch.cartesian_prod(side, side, torch.tensor([-1.8]))
    ceiling = floor * torch.tensor([1.0, 1.0, -0.5])
    # So near, a person has as many points.
    person = box([0.5, 0.4, 1.7], [4.0, 3.0, -1.8], 1600, 0)
    height = height_above(torch.cat([person, ceiling]), floor)
    assert float(height[:1600].max()) < 1.8
    assert float(height[1600:].isinf().double().mean()) > 0.99
    drops = torch.cartesian_prod(
        torch.arange(2.0, 42.0, 2.0), torch.arange(-13.0, -1.0, 3.0), torch.zeros(1)
    )
    alone = are_alone(torch.cat([person, drops]), torch.zeros(3), Rays())
    assert float(alone[:1600].double().mean()) < 0.02 and bool(alone[1600:].all())
    # Two such points are no rain.
    assert not bool(are_alone(torch.cat([person, drops[:2]]), torch.zeros(3), Rays()).any())


def test_rain_is_no_noise_of_the_ranges():
    lidar = SpinningLidar(32, 600, noise_std=0.015)
    dry, wet = (
        SimulatedSequence(highway(3), replace(lidar, stray=stray), 2, seed=3)[0]
        for stray in (0.0, 0.08)
    )
    drops = ~wet.labels.valid
    assert 0.1 < float(drops.double().mean()) < 0.3
    clouds = [Cloud(sweep.points[~sweep.labels.ground]) for sweep in (dry, wet)]
    assert clouds[1].rays.noise < 1.15 * clouds[0].rays.noise < 0.05
    # Drops are high above all clusters, and what the rain leaves of things is not.
    high = clouds[1].height.isinf()
    assert float(high[drops[~wet.labels.ground]].double().mean()) > 0.9
    assert float(high[~drops[~wet.labels.ground]].double().mean()) < 0.05


def test_people_of_a_crowd_move_each_for_themselves():
    """Two people pass each other so closely that they are one cluster."""

    def sweep(step):
        return torch.cat(
            [
                box([0.4, 0.4, 1.7], [8.0 + 0.13 * step, 3.0, -1.7], 150, 10 * step + 50),
                box([0.4, 0.4, 1.7], [8.3 - 0.13 * step, 3.62, -1.7], 150, 10 * step + 51),
            ]
        )

    window = tuple(Neighbour(sweep(step), float(step)) for step in (-2, -1, 2))
    flow = bodies(sweep(0), sweep(1), window).flow[:, 0]
    assert float((flow[:150] - 0.13).abs().mean()) < 0.03
    assert float((flow[150:] + 0.13).abs().mean()) < 0.03
