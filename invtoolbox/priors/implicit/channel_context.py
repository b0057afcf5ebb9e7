"""Latents that tell of each other: those of a low frequency, which come first, say where and how large the higher ones are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelContext(nn.Module):
    r"""What groups of channels say of the next group, ``p(z) = prod_g p(z_g | z_1, ..., z_{g-1})``, in one pass.

    Minnen and Singh, "Channel-wise autoregressive entropy models for learned image compression" (ICIP 2020). A group is seen whole, at a
    place and all around it, by the groups that follow; its own channels are independent given these. Two convolutions with masks, as in
    Germain, Gregor, Murray and Larochelle, "MADE" (ICML 2015), so that no group is waited for.

    Args:
        groups: how many channels each has.
        hidden: channels within, shared among the groups.
        known: channels of what else is known at every place.

    Called with latents ``(batch, sum(groups), *space)`` and what is known ``(batch, known, *space)``, it gives two numbers a latent:
    ``(batch, 2 sum(groups), *space)``, 0 at first.

    >>> context = ChannelContext((1, 2), hidden=4, known=3)
    >>> context(torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 5, 5)).shape
    torch.Size([1, 6, 5, 5])
    """

    first_mask: Tensor
    second_mask: Tensor

    def __init__(self, groups: Sequence[int], hidden: int, known: int) -> None:
        super().__init__()
        channels = sum(groups)
        of_channel = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(tuple(groups)))
        of_hidden = torch.arange(hidden) * len(groups) // hidden
        self.known = nn.Conv2d(known, hidden, 1)
        self.first = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.second = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer(
            "first_mask", _apart(of_hidden[:, None] > of_channel), persistent=False
        )
        self.register_buffer(
            "second_mask", _apart(of_channel.repeat(2)[:, None] >= of_hidden), persistent=False
        )

    def forward(self, z: Tensor, known: Tensor) -> Tensor:
        inside = F.conv2d(z, self.first.weight * self.first_mask, padding=1) + self.known(known)
        result: Tensor = F.conv2d(
            F.leaky_relu(inside, 0.1),
            self.second.weight * self.second_mask,
            self.second.bias,
            padding=1,
        )
        return result


def _apart(seen: Tensor) -> Tensor:
    return seen[..., None, None].float()
