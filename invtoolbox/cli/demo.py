"""``invtoolbox demo``: compare methods on a CT slice, a photograph and a simulated street."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from invtoolbox import datasets, operators, simulation
from invtoolbox.datasets.output import make_folder
from invtoolbox.datasets.sweeps.flow_files import residual_flow
from invtoolbox.jobs import options
from invtoolbox.jobs.flow.estimation import estimate
from invtoolbox.jobs.flow.preparation import Preparation, prepare_pair
from invtoolbox.jobs.flow.published import Fit, nsfp
from invtoolbox.jobs.images.kernels import gaussian_kernel
from invtoolbox.jobs.images.reconstruct import reconstruct
from invtoolbox.metrics import evaluate
from invtoolbox.operators.base import Operator
from invtoolbox.operators.noise import RelativeGaussian, simulate
from invtoolbox.plotting import Case, FlowCase, FlowMethod, Method, write_comparison
from invtoolbox.solvers import EDM

_POINTS = 20_000
_SEED = 0
#: Number of draws from the posterior, and of steps of each.
_DRAWS, _STEPS = 6, 8
#: Number of sweeps in the window of the street.
_WINDOW = 5
#: Width of the column of names in the printed tables.
_NAME_WIDTH = 19


def street_case(say: Callable[[str], None]) -> FlowCase:
    """Compare no motion, NSFP and the default method, alone and with a window, on a street.

    The sweeps of the simulated street have exact labels.
    """
    say("Scene flow: casting the rays of five sweeps")
    street, preparation = simulation.street(_WINDOW, points=_POINTS), Preparation("poses")
    source, target = street[_WINDOW // 2], street[_WINDOW // 2 + 1]
    assert source.labels is not None and target.pose is not None
    pair = prepare_pair(source, target, preparation)

    def method(name: str, flow: torch.Tensor, seconds: float | None, note: str) -> FlowMethod:
        return FlowMethod(
            name,
            residual_flow(flow, source.points, pair.ego_motion),
            evaluate(flow, source, next_pose=target.pose),
            seconds,
            note,
        )

    say("Scene flow: NSFP")
    start = time.monotonic()
    network = nsfp(pair.source, pair.target, Fit(points=2048, max_iterations=100, patience=None))
    seconds = time.monotonic() - start
    say("Scene flow: the default method")
    default = estimate(source, target, "default", preparation)
    say(f"Scene flow: the default method in a window of {_WINDOW} sweeps")
    window = [street[k] for k in range(_WINDOW)]
    windowed = estimate(source, target, "default", preparation, window=window)
    methods = [
        method(
            "Nothing moves",
            pair.flow(torch.zeros_like(pair.source)),
            None,
            "the sensor's own motion alone",
        ),
        method(
            "NSFP",
            pair.flow(network),
            seconds,
            "neural scene flow prior, 2,048 points, cut off after 100 iterations",
        ),
        method(
            "default",
            default.flow,
            default.seconds,
            "bodies that move rigidly; all else stands, at exactly zero",
        ),
        method(
            f"default, {_WINDOW} sweeps",
            windowed.flow,
            windowed.seconds,
            "the same, with two sweeps before and one after the pair",
        ),
    ]
    truth = residual_flow(source.labels.flow, source.points, pair.ego_motion)
    return FlowCase(
        "Scene flow: a simulated street",
        f"Two sweeps of {len(source):,} and {len(target):,} points of a lidar on a moving car in a "
        "town with traffic, with noise, drop-out and rolling shutter, 0.1 s apart, and three "
        "sweeps around them; the flow of every point is known exactly. Errors are of points within "
        "35 m that are not ground, without the sensor's own motion. AccS and AccR are the shares of "
        "points within 5 and 10 cm or per cent of the truth. The bucketed error is relative to the "
        "speed and averaged over the classes: 1 if no motion is found.",
        source.points,
        truth,
        methods,
    )


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "Simulate a noisy fan-beam scan of a real CT slice (from pydicom) and a "
        "blurred, noisy photograph (from\n"
        "matplotlib), reconstruct both with several methods, estimate the motion between two "
        "sweeps of a simulated\nlidar, and write a page that compares the methods. Nothing is "
        "downloaded, and the seed is fixed."
    )
    parser.epilog = "example:\n  invtoolbox demo --output results/demo"
    parser.add_argument(
        "--output",
        "-o",
        default="results/demo",
        metavar="FOLDER",
        help="folder for the report; an earlier report is replaced (default: results/demo)",
    )
    options.add_threads(parser)


def command(arguments: argparse.Namespace) -> int:
    """Run the three cases, write the page, and print the tables."""
    folder = Path(arguments.output)
    make_folder(folder)
    say = partial(print, flush=True)
    cases: list[Case | FlowCase] = [ct_case(say), deblurring_case(say), street_case(say)]
    path = write_comparison(
        folder / "report.html",
        "invtoolbox: a demonstration",
        "A CT slice from few noisy views, a photograph out of focus, and a street seen by a "
        "lidar, each with several methods. Images are solved by it.reconstruct(y, A, prior=NAME) with "
        "nothing else: noise and weight of the prior are found, and nothing is tuned to the truth.",
        cases,
    )
    for case in cases:
        print(f"\n{case.title}")
        print(flow_table(case) if isinstance(case, FlowCase) else table(case))
    print(f"\nThe pictures are in {path.resolve()}")
    return 0


def ct_case(say: Callable[[str], None]) -> Case:
    """Compare FBP, total variation and the prior ``"auto"`` on pydicom's CT slice.

    It is scanned by a simulated fan beam with 2 % noise.
    """
    item = datasets.ct_small("1/mm")
    views = 90
    A = operators.FanBeam(
        image_shape=(128, 128),
        pixel_size=item.meta["pixel_size"][0],
        num_detectors=192,
        detector_spacing=1.0,
        source_origin=500.0,
        source_detector=800.0,
        angles=torch.arange(views, dtype=torch.float64) * (2 * math.pi / views),
    )
    say("CT: compiling the projector (once on a machine) and scanning the slice")
    y = simulate(A, item.y, RelativeGaussian(0.02), seed=_SEED)
    # The kernels are compiled here, so that the seconds below do not include compilation.
    A.adjoint(y)
    A.pseudo_inverse(y)
    say("CT: FBP")
    start = time.monotonic()
    fbp = A.pseudo_inverse(y, filter="hann")
    seconds = time.monotonic() - start
    methods = [
        Method("FBP", fbp, seconds, "filtered back-projection with a Hann window"),
        _reconstruct("tv", y, A, "total variation", say, "CT"),
        _reconstruct(
            "auto", y, A, "of four priors the one that predicts held-out views best", say, "CT"
        ),
    ]
    say("CT: draws from the posterior of diffusion-ct")
    level = 0.02 * float(A(item.y).norm()) / math.sqrt(y.numel())
    sampler = EDM(steps=_STEPS, at_once=_DRAWS, max_iterations=1)
    drawn = reconstruct(
        y, A, "diffusion-ct", noise_std=level, solver=sampler, seed=_SEED, progress=False
    )
    assert drawn.posterior is not None
    return Case(
        "CT: 90 fan-beam views, 2 % noise",
        "A real slice of 128x128 pixels (CT_small of pydicom, Hounsfield units turned into "
        f"attenuation, 1/mm), scanned by a simulated fan beam: {views} views over the full circle, "
        "192 detector elements, Gaussian noise of 2 % of the sinogram's norm. PSNR and SSIM are "
        "relative to the range of the true slice. No trained prior has seen this patient.",
        item.y,
        y,
        methods,
        deviation=(
            f"of {_DRAWS} draws under the prior diffusion-ct, with the noise level known",
            drawn.posterior.mean,
            drawn.posterior.std,
        ),
        unit="1/mm",
    )


def deblurring_case(say: Callable[[str], None]) -> Case:
    """Compare total variation and a trained denoiser on a part of a portrait.

    The picture is out of focus and noisy.
    """
    truth, std = datasets.photograph("hopper")[..., 120:312, 140:380].contiguous(), 0.01
    A = operators.Blur(gaussian_kernel(1.6, "kernel"), tuple(truth.shape[-2:]))
    y = simulate(A, truth, std, seed=_SEED)
    case = "Deblurring"
    methods = [
        Method("Blurred", y, None, "the measurements, with noise"),
        _reconstruct("tv", y, A, "total variation", say, case),
        _reconstruct("denoiser-natural", y, A, "a denoiser trained on photographs", say, case),
    ]
    return Case(
        "Deblurring: a photograph out of focus",
        "A real photograph (192x240 color pixels of matplotlib's portrait of Grace Hopper), blurred by "
        "a Gaussian of 1.6 pixels, with Gaussian noise of 1 % of the range. No trained prior has "
        "seen it.",
        truth,
        y,
        methods,
        window=(0.0, 1.0),
        detail=(40, 40, 84, 110),
    )


def _reconstruct(
    name: str, y: Tensor, A: Operator, note: str, say: Callable[[str], None], case: str
) -> Method:
    """Solve by the name of a prior alone."""
    say(f"{case}: {name}")
    solution = reconstruct(y, A, prior=name, seed=_SEED, progress=False)
    chosen = f", {solution.prior}" if name == "auto" else ""
    return Method(
        name,
        solution.x,
        solution.seconds,
        f"{note}{chosen}; {solution.solver.split('(')[0]}, "
        f"{int(solution.iterations.max())} iterations",
    )


def table(case: Case) -> str:
    """Return the figures of a case as aligned text."""
    figures = case.figures()
    lines = [f"  {'method':<{_NAME_WIDTH}}{'PSNR [dB]':>10}{'SSIM':>8}{'seconds':>10}"]
    for k, method in enumerate(case.methods):
        seconds = "" if method.seconds is None else f"{method.seconds:.2f}"
        lines.append(
            "  "
            f"{method.name:<{_NAME_WIDTH}}{figures['PSNR [dB]'][k]:>10.2f}{figures['SSIM'][k]:>8.3f}{seconds:>10}"
        )
    return "\n".join(lines)


def flow_table(case: FlowCase) -> str:
    """Return the figures of a case of scene flow as aligned text."""
    columns = case.columns()
    lines = [
        f"  {'method':<{_NAME_WIDTH}}"
        + "".join(f"{name:>{max(len(name), 6) + 3}}" for name in columns)
    ]
    for name, figures in case.rows():
        lines.append(
            f"  {name:<{_NAME_WIDTH}}"
            + "".join(f"{value:>{max(len(head), 6) + 3}}" for head, value in zip(columns, figures))
        )
    return "\n".join(lines)
