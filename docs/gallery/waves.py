"""Waves: the velocity below the ground from the records of five shots

Every shot sends waves into the ground, and receivers at the surface record what comes back (left,
the middle shot). The inversion starts at velocities that rise with the depth and fits the low
frequencies first. The misfit of a wavelet and its delayed copy shows why: least squares (black)
grows up to 0.43 periods only, Sobolev misfits of negative order grow farther.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it

# A fault, and a lens of slow rock.
row, column = torch.meshgrid(torch.arange(26.0), torch.arange(61.0), indexing="ij")
depth = row + 6 * (column > 34) + 2 * torch.sin(column / 9)
truth = 1600 + 150 * (depth > 9) + 150 * (depth > 16) + 150 * (depth > 23)
truth[(row - 13) ** 2 / 9 + (column - 18) ** 2 / 36 < 1] = 1500.0
truth = truth[None, None]
start = (1570 + 14 * row)[None, None]

shots = torch.stack([torch.full((5,), 10.0), torch.linspace(50, 550, 5)], 1)
receivers = torch.stack([torch.full((41,), 10.0), torch.linspace(0, 600, 41)], 1)
wavelet = it.simulation.ricker(10.0, time_step=2e-3, samples=200)
A = it.operators.AcousticWaves(
    (26, 61), 10.0, shots, receivers, wavelet, 2e-3, velocities=(1400, 2100), samples=280
)
y = A.simulate(truth, noise=0.1, seed=0)
x = it.invert_waveforms(y, A, start, bands=(6, 10), max_iterations=10, progress=False).x
for name, found in (("start", start), ("inversion", x)):
    print(f"{name}: error {float((found - truth).square().mean().sqrt()):.0f} m/s")

figure, axes = plt.subplots(2, 3, figsize=(12, 5.2), layout="constrained")
for ax, (title, picture) in zip(
    axes.flat, {"velocity, m/s": truth, "start": start, "inversion": x}.items()
):
    drawn = ax.imshow(picture[0, 0].numpy(), vmin=1450, vmax=2050, extent=(0, 610, 260, 0))
    ax.set(title=title, xlabel="along, m", ylabel="depth, m")
figure.colorbar(drawn, ax=axes[0], shrink=0.8)
records, predicted, basin = axes[1]
for ax, title, shown in ((records, "records of a shot", y), (predicted, "of the inversion", A(x))):
    limit = float(y[0, 0, 2].abs().quantile(0.85))
    ax.imshow(shown[0, 0, 2].T.numpy(), cmap="gray", vmin=-limit, vmax=limit, aspect="auto")
    ax.set(title=title, xlabel="receiver", ylabel="sample")

delays = torch.linspace(-1.5, 1.5, 121)
pulse = [it.simulation.ricker(10.0, 2e-3, 1000, delay=1 + 0.1 * float(d)) for d in delays]
pulse = torch.stack(pulse).double().unsqueeze(1)
for order, color in ((0.0, "black"), (-1.0, "tab:blue"), (-2.0, "tab:orange")):
    term = it.data_terms.Sobolev(order, length_scale=200.0, axes=(-1,), unit="sample")
    misfit = term.value(pulse, pulse[60:61].expand_as(pulse))
    basin.plot(
        delays.numpy(), (misfit / misfit.max()).numpy(), color=color, label=f"order {order:g}"
    )
basin.set(title="misfit of a delayed wavelet", xlabel="delay, periods")
basin.legend()
figure.savefig("waves.png", dpi=90)
