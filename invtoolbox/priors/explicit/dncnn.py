"""DnCNN: the plain convolutional denoiser that plug-and-play methods are usually compared with."""

from __future__ import annotations

import itertools
from pathlib import Path

from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.priors.weight_files import read_weights


class DnCNN(nn.Module):
    r"""``x - F(x)``, F a chain of 3x3 convolutions and ReLUs that predicts the noise (Zhang et al., IEEE TIP
    26, 2017).

    Batch normalisation is merged into the convolutions, so training and evaluation are the same. The layout
    of the weights is that of the KAIR model zoo (``model.0.weight``, ``model.2.weight``, ...), whose files
    `load_dncnn` reads.

    Args:
        channels: of the image.
        depth: number of convolutions; 17 for one noise level, 20 for a blind denoiser.
        width: channels of the hidden layers.

    >>> import torch
    >>> DnCNN(depth=3, width=8)(torch.zeros(1, 1, 16, 16)).shape
    torch.Size([1, 1, 16, 16])
    """

    def __init__(self, channels: int = 1, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        widths = [channels, *[width] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        noise: Tensor = self.model(x)
        return x - noise


def load_dncnn(path: str | Path) -> DnCNN:
    """A `DnCNN` in evaluation mode from a file of weights; channels, depth and width are read from them.

    Nothing but tensors is unpickled.

    Raises:
        InputError: where the file is missing, is not a file of weights, or holds another network.
    """
    state = read_weights(path)
    layers = [w for name, w in state.items() if name.endswith("weight")]
    if not layers or not isinstance(layers[0], Tensor) or layers[0].ndim != 4:
        raise InputError(f"{path} does not hold the convolutions of a DnCNN")
    network = DnCNN(layers[0].shape[1], len(layers), layers[0].shape[0])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path} holds another network than DnCNN: {reason}") from error
    return network.eval().requires_grad_(False)
