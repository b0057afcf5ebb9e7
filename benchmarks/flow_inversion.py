"""Inversion of pictures to their noise: Newton's method compared with DDIM inversion.

    python benchmarks/flow_inversion.py [--pictures 3]

The probability flow of ``diffusion-natural``, crops of 64x64 from the centre of BSD68, which the
network has not seen. Each picture is inverted to its noise, and the flow makes a picture of it.
Printed: PSNR of that picture, standard deviation of the noise (1 for a draw of the prior), and
seconds of processor time per picture.
"""

from __future__ import annotations

import time

import torch
from common import data_folder, machine, run_script, verdict

import invtoolbox as it


def main(pictures: int = 3) -> None:
    print(machine())
    data = it.datasets.open(data_folder() / "bsd68_gray", reader="pictures")
    crops = []
    for k in range(pictures):
        y = data[k].y
        top, left = (y.shape[2] - 64) // 2, (y.shape[3] - 64) // 2
        crops.append(y[..., top : top + 64, left : left + 64])
    x = torch.cat(crops)
    prior = it.priors.load("diffusion-natural")
    for steps in (5, 10, 20):
        flow = it.priors.ProbabilityFlow(prior, (1, 64, 64), steps=steps)
        found = {}
        for name, newton in (("DDIM inversion", 0), ("2 Newton steps", 2), ("4 Newton steps", 4)):
            began = time.process_time()
            noise = it.solvers.invert_flow(flow, x, newton)
            seconds = (time.process_time() - began) / len(x)
            with torch.no_grad():
                again = flow.decode(noise)
            found[name] = float(it.metrics.psnr(again, x, data_range=1.0).mean())
            print(
                f"  {steps:2} steps, {name:14} {found[name]:6.2f} dB, standard deviation of the noise "
                f"{float(noise['w'].std()):.3f}, {seconds:.1f} s",
                flush=True,
            )
        gain = found["4 Newton steps"] - found["DDIM inversion"]
        print(f"  {steps:2} steps, gain {gain:+.1f} dB " + verdict(gain >= 10, "10 dB"))


if __name__ == "__main__":
    run_script(main)
