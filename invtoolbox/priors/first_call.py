"""One call of a prior of the user before the first iteration, whose faults are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.memory import is_out_of_memory
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.priors.base import ExplicitPrior

_PACKAGE = __name__.partition(".")[0]
#: Attributes in which priors of this package hold a function or a prior of the user.
_HOLDERS = ("function", "prior")
#: Values of the image for which an energy must be a number, and of the one for its derivative.
_LOW, _GREY, _HIGH = 0.25, 0.5, 0.75


def is_foreign(prior: Any) -> bool:
    """Return whether a prior, data term or operator runs code of the user or of another package.

    >>> import invtoolbox as it
    >>> is_foreign(it.priors.TotalVariation()), is_foreign(it.as_prior(torch.nn.Identity()))
    (False, False)
    >>> is_foreign(type("Mine", (ExplicitPrior,), {"__module__": "my_priors"})())
    True
    """
    inner = [prior, *(vars(prior).get(name) for name in _HOLDERS)]
    return any(
        _module(part).partition(".")[0] not in (_PACKAGE, "torch", "builtins") for part in inner
    )


def _module(part: Any) -> str:
    return getattr(part, "__module__", None) or type(part).__module__


@contextmanager
def naming_faults(
    what: str,
    arguments: str,
    advice: str = "it.testing.check_prior(prior, x) tests a prior alone",
) -> Iterator[None]:
    """Turn an exception that code of the user raises into a sentence that names the code.

    Args:
        what: the method or network that is called.
        arguments: what it is called with.
        advice: the end of the sentence.

    >>> with naming_faults("MyPrior().energy", "images of shape (1, 1, 4, 4)"):
    ...     raise KeyError("w")
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: MyPrior().energy raised KeyError for images of shape \
(1, 1, 4, 4): 'w'; it.testing.check_prior(prior, x) tests a prior alone
    """
    try:
        yield
    except (InputError, MissingDependency):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        if is_out_of_memory(e):
            raise
        raise InputError(f"{what} raised {type(e).__name__} for {arguments}: {e}; {advice}") from e


def check_first_call(prior: ExplicitPrior, x: Tensor) -> None:
    """Call every method that a prior of the user offers, and refuse what no solver can use.

    Args:
        prior: explicit prior.
        x: images ``(batch, channel, *space)``, any values.

    Raises:
        InputError: a method raises, changes its argument, or returns another shape than its
            contract; the energy has no derivative, and nothing else is offered; the energy is NaN for
            a ramp; or the derivative that is used is NaN for a grey image.

    >>> class Ridge(ExplicitPrior):
    ...     def energy(self, x):
    ...         return x.square().sum()  # mixes the items
    >>> check_first_call(Ridge(), torch.zeros(2, 1, 4, 4))
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: Ridge().energy returns shape () for 2 images, expected (2,): sum \
over all axes but the first, .flatten(1).sum(1)
    """
    batch, real = len(x), x.real.dtype
    step = torch.ones(batch, dtype=real, device=x.device)
    offers = prior.offers
    if "energy" in offers:
        value = _call(prior, "energy", prior.energy, x)
        if value.shape != (batch,) and not (batch == 1 and value.numel() == 1 and value.ndim < 2):
            raise InputError(
                f"{prior!r}.energy returns shape {tuple(value.shape)} for {batch} images, expected "
                f"({batch},): sum over all axes but the first, .flatten(1).sum(1)"
            )
        if type(prior).gradient is ExplicitPrior.gradient and not {"prox", "split"} & offers:
            with torch.enable_grad():
                free = x.clone().requires_grad_(True)
                prior._require_derivative(_call(prior, "energy", prior.energy, free))
        _refuse_nan(prior, x)
    # Images of zeros hide that a method changes its argument.
    x = x if bool(x.any()) else _ramp(x)
    if "prox" in offers:
        _same_shape(prior, "prox", _call(prior, "prox", prior.prox, x, step), x)
    if type(prior).gradient is not ExplicitPrior.gradient and "gradient" in offers:
        # Solvers pass the generator by position.
        value = _call(prior, "gradient", lambda images: prior.gradient(images, None), x)
        _same_shape(prior, "gradient", value, x)


def _refuse_nan(prior: ExplicitPrior, like: Tensor) -> None:
    """Refuse an energy that is NaN for a ramp, or a derivative that is NaN for a grey image.

    An energy of constant images may be 0 / 0, such as a ratio of norms of the gradient.
    """
    fault, image = "", f"with values from {_LOW} to {_HIGH}"
    advice = "write the energy for every image, for example x.clamp_min(1e-6).log()"
    value = _call(prior, "energy", prior.energy, _ramp(like))
    if bool(value.isnan().any()):
        fault = "energy is NaN"
    elif type(prior).gradient is ExplicitPrior.gradient and not {"prox", "split"} & prior.offers:
        with torch.enable_grad():
            grey = torch.full_like(like, _GREY).requires_grad_(True)
            value = _call(prior, "energy", prior.energy, grey)
            (slope,) = torch.autograd.grad(value.sum(), grey, allow_unused=True)
        if slope is not None and bool(slope.isnan().any() & value.isfinite().all()):
            fault, image = "energy has a derivative that is NaN", f"that is {_GREY} everywhere"
            advice = "a root needs a small number below it, (x.square() + 1e-8).sqrt()"
    if fault:
        raise InputError(f"{prior!r}.{fault} for an image {image}; {advice}")


def _ramp(like: Tensor) -> Tensor:
    ramp = torch.linspace(_LOW, _HIGH, like[0].numel(), device=like.device).to(like.dtype)
    return ramp.view_as(like[:1]).expand_as(like).clone()


def _call(
    prior: ExplicitPrior, name: str, method: Callable[..., Any], x: Tensor, *more: Tensor
) -> Tensor:
    before = x.detach().clone()
    steps = f" and steps of shape {tuple(more[0].shape)}, one per image" if more else ""
    advice = "it.testing.check_prior(prior, x) tests a prior alone"
    if steps:
        ones = ", ".join("1" for _ in x.shape[1:])
        advice = f"step.view(-1, {ones}) broadcasts against the images; {advice}"
    if x.real.dtype != torch.float32 or x.device.type != "cpu":
        place = x.real.dtype if x.device.type == "cpu" else f'"{x.device}"'
        advice = f"prior.to({place}) converts the tensors of a prior to those of y; {advice}"
    with naming_faults(f"{prior!r}.{name}", f"images of shape {tuple(x.shape)}{steps}", advice):
        value = method(x, *more)
    if not isinstance(value, Tensor):
        raise InputError(
            f"{prior!r}.{name} returns {type(value).__name__}, expected a torch tensor"
        )
    if not torch.equal(x.detach(), before):
        raise InputError(
            f"{prior!r}.{name} changes its argument; write x = x - 0.5 in place of x -= 0.5"
        )
    return value


def _same_shape(prior: ExplicitPrior, name: str, value: Tensor, x: Tensor) -> None:
    if value.shape != x.shape:
        raise InputError(
            f"{prior!r}.{name} returns shape {tuple(value.shape)} for images of shape "
            f"{tuple(x.shape)}; they must be equal"
        )
