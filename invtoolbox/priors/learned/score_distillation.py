"""Score distillation, which moves a scene so that a diffusion model finds its pictures likely.

`ScoreDistillation` is the prior. A `Score` is its model of the noise in a picture: `GaussianScore`
and `DenoiserScore` are exact or cheap, `DiffusersScore` wraps a diffusion pipeline.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.settings import replace


class Score(Settings):
    """Base class of models of the noise in a picture: the expectation ``E[e | z]``.

    ``z = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) e`` is the noisy picture. The expectation is
    ``-sqrt(1 - alpha_bar_t)`` times the score ``grad log p_t(z)``. A subclass writes `noise`, and
    `encode` if the model works on latents.

    Attributes:
        alphas: alpha_bar of every step t, falling, ``(T,)``.
    """

    alphas: Tensor

    @abstractmethod
    def noise(self, z: Tensor, t: Tensor) -> Tensor:
        """Return ``E[e | z]`` of pictures ``(n, channel, row, column)`` at steps ``(n,)``, int64.

        n is a multiple of the number of pictures that the score was made for.
        """

    def encode(self, x: Tensor) -> Tensor:
        """Return the variable to which noise is added; differentiable.

        It is the pictures themselves unless overridden.
        """
        return x

    def subset(self, index: Any) -> Self:
        """Return the score of some of the pictures, if each has its own."""
        return self

    def at_steps(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``sqrt(alpha_bar_t)`` and ``sqrt(1 - alpha_bar_t)`` as factors of ``like``."""
        chosen = self.alphas.to(like.device)[t]
        return expand(chosen.sqrt().to(like), like), expand((1 - chosen).sqrt().to(like), like)


class ScoreDistillation(ExplicitPrior):
    """Gradient without an energy: the mean over pictures of ``w(t) (score.noise(z, t) - e)``.

    z is the picture with the noise e at step t. Pictures are ``(batch, channel, row, column)``, or
    ``(batch, channel, picture, row, column)`` as renderers return them:
    ``w * ScoreDistillation(score) @ A`` moves a scene so that its renderings become likely. t and e
    are drawn from the seed and the iteration, for every picture anew, with the same draws for all
    items. A model of latents is differentiated through its encoder, not through its network.

    With a ``reference`` the gradient is the difference of two scores,
    ``w(t) (score.noise(z, t) - reference.noise(z, t))``. It is free of the drawn noise and vanishes
    where the models agree. Only the part remains that one of them has learned and the other has not
    (a motion, an edit). With an ``origin`` the reference sees that picture, with the same noise,
    in place of the picture that moves. The gradient then vanishes once the change from the origin
    is the one that the models differ by, although the picture looks unlike those of both models.

    With measurements and ``weight=lambda a: ((1 - a) / a).sqrt()`` it is RED-diff, which finds one
    image that explains them and that the model finds likely, from large to small noise if ``shrink``
    is given (Mardani et al., "A variational perspective on solving inverse problems with diffusion
    models", ICLR 2024).

    Sources: Poole et al., "DreamFusion", ICLR 2023, equation 3; Sella et al., "Vox-E", ICCV 2023
    (steps and their schedule); Animus3D, 2025 (differences that move a scene), and Hertz et al.,
    "Delta denoising score", ICCV 2023 (the origin).

    Args:
        score: a `Score`: `GaussianScore`, `DenoiserScore`, `DiffusersScore`, or your own.
        reference: another score, in place of the drawn noise.
        origin: pictures at the start, at which the reference is evaluated, of the shape of x with a
            batch of 1; by default the reference is evaluated at x.
        steps: range of t, as shares of all steps.
        weight: w as a function of alpha_bar; ``1 - alpha_bar`` by default.
        noise: source of e: a function of a tensor shaped as the noise and of the generator, or the
            noise itself (such as the noise of an inversion); standard normal draws by default.
        shrink: ``(after, every, factor, floor)``: from the iteration ``after`` on, the largest step
            shrinks by ``factor`` after every ``every`` iterations, down to ``floor``; Vox-E has
            (4000, 600, 0.75, 0.22).

    >>> from invtoolbox.priors import GaussianScore
    >>> score = GaussianScore(torch.ones(1, 2, 2), std=0.0, alphas=torch.tensor([0.5]))
    >>> x, generator = torch.zeros(1, 1, 2, 2), torch.Generator().manual_seed(0)
    >>> ScoreDistillation(score).gradient(x, generator).mean()  # w sqrt(a / (1 - a)) (x - mean)
    tensor(-0.5000)
    """

    def __init__(
        self,
        score: Score,
        reference: Score | None = None,
        steps: tuple[float, float] = (0.02, 0.98),
        weight: Callable[[Tensor], Tensor] | None = None,
        noise: Tensor | Callable[[Tensor, Generator], Tensor] | None = None,
        shrink: tuple[int, int, float, float] | None = None,
        origin: Tensor | None = None,
    ) -> None:
        if not 0 <= steps[0] <= steps[1] <= 1:
            raise InputError(
                "steps of ScoreDistillation are shares of all steps, from low to high within "
                f"0 to 1, got {steps}"
            )
        if reference is not None and not torch.equal(reference.alphas, score.alphas):
            raise InputError(
                "the two scores of ScoreDistillation have different schedules of noise; "
                "give both the same alphas"
            )
        if origin is not None and reference is None:
            raise InputError(
                "ScoreDistillation evaluates the reference at the origin; give reference= too"
            )
        if shrink is not None and not (
            shrink[1] >= 1 and 0 < shrink[2] <= 1 and 0 <= shrink[3] <= 1
        ):
            raise InputError(
                "shrink of ScoreDistillation is (after, every, factor, floor) with factor and "
                f"floor up to 1, got {shrink}"
            )
        self.score, self.reference, self.origin = score, reference, origin
        self.steps, self.weight, self.noise, self.shrink = steps, weight, noise, shrink

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        if x.ndim not in (4, 5):
            raise InputError(
                f"{self!r} takes pictures (batch, channel, row, column) or (batch, channel, "
                f"picture, row, column), got {tuple(x.shape)}; renderers of voxels give pictures "
                "with block='picture'"
            )
        if self.origin is not None and tuple(self.origin.shape) != (1, *x.shape[1:]):
            raise InputError(
                f"the origin of {self!r} has the shape {tuple(self.origin.shape)} and the pictures "
                f"{tuple(x.shape)}; give one item of the same shape, {(1, *x.shape[1:])}"
            )
        generator = torch.Generator(x.device) if generator is None else generator
        pictures = 1 if x.ndim == 4 else x.shape[2]
        with torch.enable_grad():
            free = x.detach().requires_grad_(True)
            flat = free if x.ndim == 4 else free.transpose(1, 2).flatten(0, 1)
            latent = self.score.encode(flat)
            slope = self._slope(latent.detach(), len(x), pictures, generator) / pictures
            (result,) = torch.autograd.grad(latent, free, slope)
        return result

    def _slope(self, latent: Tensor, batch: int, pictures: int, generator: Generator) -> Tensor:
        """Return the gradient with respect to the encoded pictures, ``(batch * picture, ...)``."""
        with torch.no_grad():
            last = len(self.score.alphas) - 1
            low, high = (round(share * last) for share in self.steps)
            t = torch.randint(
                low, max(high, low) + 1, (pictures,), generator=generator, device=latent.device
            ).repeat(batch)
            of_item = latent[:pictures]
            drawn = self._noise(of_item, generator).expand_as(of_item)
            drawn = drawn.repeat(batch, *[1] * (latent.ndim - 1))
            a, b = self.score.at_steps(t, latent)
            z = a * latent + b * drawn
            subtracted = drawn
            if self.reference is not None:
                start = z if self.origin is None else a * self._start(latent, batch) + b * drawn
                subtracted = self.reference.noise(start, t)
            alphas = self.score.alphas.to(latent.device)[t]
            w = 1 - alphas if self.weight is None else self.weight(alphas)
            return expand(w.to(latent), latent) * (self.score.noise(z, t) - subtracted)

    def _start(self, latent: Tensor, batch: int) -> Tensor:
        """Return the encoded origin for every item, ``(batch * picture, ...)``."""
        assert self.origin is not None
        first = self.origin.to(latent)
        flat = first if first.ndim == 4 else first.transpose(1, 2).flatten(0, 1)
        return self.score.encode(flat).repeat(batch, *[1] * (latent.ndim - 1))

    def _noise(self, like: Tensor, generator: Generator) -> Tensor:
        if isinstance(self.noise, Tensor):
            return self.noise.to(like)
        if self.noise is not None:
            return self.noise(like, generator)
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)

    def at(self, iteration: int) -> Self:
        if self.shrink is None or iteration < self.shrink[0]:
            return self
        after, every, factor, floor = self.shrink
        # As if the largest step had shrunk once at the iteration `after`, and then at every period.
        low, high = self.steps
        largest = max(floor, high * factor ** ((iteration - after) // every + 1))
        return replace(self, steps=(low, max(low, min(high, largest))), shrink=None)

    def subset(self, index: Any) -> Self:
        score = self.score.subset(index)
        reference = None if self.reference is None else self.reference.subset(index)
        noise = self.noise
        if isinstance(noise, Tensor) and noise.ndim == 4 and len(noise) > 1:
            noise = noise[index]
        origin = self.origin
        if origin is not None and origin.ndim == 5:
            origin = origin[:, :, index]
        return replace(self, score=score, reference=reference, noise=noise, origin=origin)

    def __repr__(self) -> str:
        less = "" if self.reference is None else f", reference={type(self.reference).__name__}"
        return f"ScoreDistillation({type(self.score).__name__}{less})"


class GaussianScore(Score):
    """Score of ``x ~ N(mean, std^2)``.

    It is ``sqrt(1 - a) (z - sqrt(a) mean) / (a std^2 + 1 - a)`` with ``a = alpha_bar_t``. With a
    picture as the mean it is an exact score of what every view should show, so score distillation
    can be tested without a network.

    Args:
        mean: one picture for all, ``(channel, row, column)``, or
            ``(picture, channel, row, column)`` with one picture per block of a renderer.
        std: standard deviation, one number for all pixels.
        alphas: see `Score`; `linear_schedule` by default.

    >>> score = GaussianScore(torch.ones(1, 2, 2), std=0.5, alphas=torch.tensor([0.5]))
    >>> z, t = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    >>> score.noise(z, t).mean()  # -sqrt(0.5) sqrt(0.5) / (0.125 + 0.5)
    tensor(-0.8000)
    """

    def __init__(self, mean: Tensor, std: float, alphas: Tensor | None = None) -> None:
        if mean.ndim not in (3, 4) or not std >= 0:
            raise InputError(
                "GaussianScore takes a mean (channel, row, column) or (picture, channel, row, "
                f"column) and a std of at least 0, got {tuple(mean.shape)} and {std}"
            )
        self.mean, self.std = mean if mean.ndim == 4 else mean[None], std
        self.alphas = _check_alphas(alphas)

    def noise(self, z: Tensor, t: Tensor) -> Tensor:
        a, b = self.at_steps(t, z)
        return (
            b * (z - a * _repeat(self.mean.to(z), len(z))) / (a.square() * self.std**2 + b.square())
        )

    def subset(self, index: Any) -> Self:
        return replace(self, mean=self.mean if len(self.mean) == 1 else self.mean[index])


class DenoiserScore(Score):
    """Score of a denoiser, by Tweedie's identity.

    It is ``(z - sqrt(a) D(z / sqrt(a), sigma)) / sqrt(1 - a)`` with ``sigma = sqrt(1 / a - 1)``.
    The score is exact for priors whose denoiser is the posterior mean: `Gaussian`,
    `GaussianMixture`, `ConditionalMixture`. Networks denoise well up to the noise level of their
    training, so pair them with a `ScoreDistillation` whose largest step is no noisier.

    Args:
        prior: prior with ``denoise``; pictures have the values that the prior is meant for.
        alphas: see `Score`.
        condition: condition of a `ConditionalPrior`: one, ``(1, *shape)``, or one per picture.

    >>> from invtoolbox.priors import Gaussian
    >>> score = DenoiserScore(Gaussian(torch.ones(1, 2, 2), 0.25), alphas=torch.tensor([0.5]))
    >>> score.noise(torch.zeros(1, 1, 2, 2), torch.tensor([0])).mean()
    tensor(-0.8000)
    """

    def __init__(
        self, prior: ExplicitPrior, alphas: Tensor | None = None, condition: Tensor | None = None
    ) -> None:
        if "denoise" not in prior.offers:
            raise InputError(f"DenoiserScore needs a prior that denoises, and {prior!r} does not")
        if condition is not None and not hasattr(prior, "denoise_given"):
            raise InputError(f"{prior!r} takes no condition; a ConditionalPrior does")
        self.prior, self.alphas, self.condition = prior, _check_alphas(alphas), condition

    def noise(self, z: Tensor, t: Tensor) -> Tensor:
        a, b = self.at_steps(t, z)
        sigma = (b / a).flatten()
        if self.condition is None:
            clean = self.prior.denoise(z / a, sigma)
        else:
            clean = self.prior.denoise_given(z / a, sigma, _repeat(self.condition.to(z), len(z)))  # type: ignore[attr-defined]
        return (z - a * clean) / b

    def subset(self, index: Any) -> Self:
        if self.condition is None or len(self.condition) == 1:
            return self
        return replace(self, condition=self.condition[index])


class DiffusersScore(Score):
    """Score of a text-to-image pipeline of the package diffusers, a latent diffusion model.

    The pipeline is an argument and is never downloaded. Any object with the same members is
    accepted: ``unet(z, t, encoder_hidden_states=...).sample``, ``scheduler.alphas_cumprod``,
    ``scheduler.config.prediction_type`` (``"epsilon"`` or ``"v_prediction"``),
    ``vae.encode(x).latent_dist.mode()``, ``vae.config.scaling_factor`` and
    ``encode_prompt(prompt, device, 1, True, negative_prompt)``, which returns the embeddings with
    and without the prompt. Pictures have values from 0 to 1. The guided noise is
    ``e_0 + guidance (e_c - e_0)`` (Ho and Salimans, 2022).

    Args:
        pipeline: for example ``diffusers.StableDiffusionPipeline.from_pretrained(...)``.
        prompt: one text, or one per picture (``"a dog, side view"``).
        negative_prompt: text for the unguided noise.
        guidance: factor of the guidance; 100 in DreamFusion and Vox-E, 7.5 is usual for pictures.
        size: ``(height, width)`` to which pictures are resized before they are encoded; None keeps
            their size.
    """

    def __init__(
        self,
        pipeline: Any,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        guidance: float = 100.0,
        size: tuple[int, int] | None = None,
    ) -> None:
        for member in ("unet", "scheduler", "vae", "encode_prompt"):
            if not hasattr(pipeline, member):
                raise InputError(
                    "DiffusersScore takes a text-to-image pipeline of diffusers; "
                    f"{type(pipeline).__name__} has no {member}"
                )
        self.kind = str(getattr(pipeline.scheduler.config, "prediction_type", "epsilon"))
        check_choice(self, ("epsilon", "v_prediction"), prediction_type=self.kind)
        self.unet, self.vae, self.guidance, self.size = pipeline.unet, pipeline.vae, guidance, size
        self.alphas = _check_alphas(pipeline.scheduler.alphas_cumprod)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        with torch.no_grad():
            device = getattr(pipeline, "device", torch.device("cpu"))
            embeddings = pipeline.encode_prompt(
                texts, device, 1, True, negative_prompt=[negative_prompt] * len(texts)
            )
        #: Embeddings with the prompt, and with the negative one.
        self.given, self.free = (e.detach() for e in embeddings[:2])

    def encode(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = torch.nn.functional.interpolate(
                x, self.size, mode="bilinear", align_corners=False, antialias=True
            )
        return self.vae.encode(2 * x - 1).latent_dist.mode() * self.vae.config.scaling_factor

    def noise(self, z: Tensor, t: Tensor) -> Tensor:
        embeddings = torch.cat([_repeat(e, len(z)) for e in (self.free, self.given)])
        both = self.unet(
            torch.cat([z, z]), torch.cat([t, t]), encoder_hidden_states=embeddings
        ).sample
        without, with_prompt = both.chunk(2)
        guided = without + self.guidance * (with_prompt - without)
        if self.kind == "epsilon":
            return guided
        a, b = self.at_steps(t, z)
        return a * guided + b * z

    def subset(self, index: Any) -> Self:
        if len(self.given) == 1:
            return self
        return replace(self, given=self.given[index], free=self.free[index])


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 2e-2) -> Tensor:
    """Return ``alpha_bar_t = prod_{s <= t} (1 - beta_s)``, with beta from ``first`` to ``last``.

    The shape is ``(steps,)``. Source: Ho, Jain and Abbeel, "DDPM", 2020.
    """
    return (1 - torch.linspace(first, last, steps, dtype=torch.float64)).cumprod(0)


def _check_alphas(alphas: Tensor | None) -> Tensor:
    values = linear_schedule() if alphas is None else torch.as_tensor(alphas, dtype=torch.float64)
    if (
        values.ndim != 1
        or not len(values)
        or not bool(((values > 0) & (values < 1)).all())
        or bool((values.diff() > 0).any())
    ):
        raise InputError(
            "the alphas of a score are (T,), between 0 and 1 and falling: "
            "alpha_bar of every step of the diffusion"
        )
    return values


def _repeat(pictures: Tensor, count: int) -> Tensor:
    """Repeat the entries of pictures for every item of a batch, up to ``count`` in all."""
    if count % len(pictures):
        raise InputError(
            f"a score was made for {len(pictures)} pictures and is given {count}; "
            "give it one for all, or one for each block of the renderer"
        )
    return pictures.repeat(count // len(pictures), *[1] * (pictures.ndim - 1))
