"""Conversions between deepinv's physics and operators; importing this module imports deepinv."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self, TypeVar, cast

import torch
from deepinv.physics import DecomposablePhysics, Denoising, LinearPhysics, Physics, ZeroNoise
from deepinv.physics import Inpainting as PhysicsOfMissingPixels
from deepinv.physics.forward import ComposedPhysics, StackedPhysics
from deepinv.utils import TensorList
from torch import Tensor

from invtoolbox.core.pytrees import tree_map
from invtoolbox.core.settings import Settings, cast_dtype
from invtoolbox.errors import InputError, warn_user
from invtoolbox.operators.algebra import stack
from invtoolbox.operators.base import LinearOperator, Operator, Shapes, count_items, expand, inner
from invtoolbox.operators.elementary import Identity, Unitary
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting, Sampling
from invtoolbox.operators.imaging.unmixing import Unmixing
from invtoolbox.operators.matrix import Matrix, check_adjoint, probe_range


class DeepinvOperator(Operator):
    """Noiseless forward model ``physics.A`` of a copy of a deepinv physics.

    If the first axis of a parameter of the physics is a batch (a mask or a filter of shape
    ``(batch, ...)``), the operator differs from item to item.
    """

    def __init__(
        self, physics: Physics, domain_shape: Sequence[int] | None = None, channelwise: bool = False
    ) -> None:
        # The caller's physics is not touched: several physics rewrite their own buffers in a call.
        self.physics = copy_physics(physics)
        self.channelwise = channelwise
        self.items = self._count_items()
        self.domain_shape = _domain_shape(physics, domain_shape)
        like = next(
            (v.real for v in self.physics.buffers() if v.is_floating_point() or v.is_complex()),
            torch.empty(0),
        )
        try:
            self.range_shape = self._probe(like)
        except RuntimeError:
            if not any(v.is_complex() for v in self.physics.buffers()):
                raise
            # Complex matrices take complex images, coil maps take pairs of real channels; only a
            # trial can decide.
            self.range_shape = self._probe(like.to(like.dtype.to_complex()))
            self.complex_images = True

    def _probe(self, like: Tensor) -> Shapes:
        batch = self.items or 1
        return probe_range(self._forward, self.domain_shape, like, repr(self), batch)

    def _forward(self, x: Tensor) -> Any:
        return to_tuple(self.physics.A(x))

    def parameters(self) -> dict[str, Tensor]:
        """Return the tensors of the physics, by its own names: ``mask``, ``filter``, ``angles``."""
        return {
            name: value
            for name, value in self.physics._buffers.items()
            if value is not None
            and value.is_floating_point() | value.is_complex()
            and name != "_device_holder"
        }

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        operator = self._with_buffers({})
        # `update_parameters` is called because some physics derive further tensors from these.
        operator.physics.update_parameters(**parameters)
        return operator._with_items(operator._count_items())

    def _count_items(self) -> int | None:
        batched = [value for value in self.parameters().values() if value.ndim >= 4]
        return count_items(f"the parameters of {self}", *batched)

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        chosen = {
            name: value.index_select(0, index)
            for name, value in self.parameters().items()
            if value.ndim >= 4 and len(value) == self.items
        }
        return self._with_buffers(chosen)._with_items(len(index))

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        if isinstance(target, torch.dtype):
            dtype = target
        elif target is not None:
            device = target
        operator = copy.copy(self)
        # Module.to(float64) would cast complex buffers to real ones, and drop their imaginary
        # parts.
        operator.physics = copy_physics(self.physics)._apply(
            lambda t: t.to(device=device, dtype=cast_dtype(t.dtype, dtype))
        )
        return operator

    def to_physics(self) -> Physics:
        """Return a copy of the physics without noise, with the attributes of its class."""
        physics = copy_physics(self.physics)
        physics.noise_model = ZeroNoise()
        return physics

    def _with_buffers(self, buffers: dict[str, Tensor]) -> Self:
        """Return a copy with some tensors replaced.

        The other tensors are shared, so that gradients pass through them.
        """
        operator, physics = copy.copy(self), copy.copy(self.physics)
        physics._buffers = {**self.physics._buffers, **buffers}
        physics._modules = dict(self.physics._modules)
        physics._parameters = dict(self.physics._parameters)
        operator.physics = physics
        return operator

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.physics).__name__})"


class DeepinvLinearOperator(DeepinvOperator, LinearOperator):
    """Linear forward model of a copy of a deepinv physics: ``A`` and ``A_adjoint``.

    If ``A_adjoint`` fails the dot test by a tenth, automatic differentiation replaces it, with a
    warning.
    """

    is_matched = True

    def __init__(
        self, physics: Physics, domain_shape: Sequence[int] | None = None, channelwise: bool = False
    ) -> None:
        super().__init__(physics, domain_shape, channelwise)
        like = next((value for value in self.parameters().values()), torch.empty(0))
        like = like if self.complex_images else like.real
        alone = self.select(torch.tensor([0], device=like.device))
        try:
            check_adjoint(
                alone._forward, alone._adjoint, self.domain_shape, like, repr(self), "A_adjoint"
            )
        except InputError as error:
            self.is_matched = False
            fault = str(error).partition(";")[0]
            warn_user(f"{fault}; that of automatic differentiation takes its place")

    def _adjoint(self, y: Any) -> Tensor:
        if not self.is_matched:
            return super()._adjoint(y)
        return cast(Tensor, self.physics.A_adjoint(_to_list(y)))

    def pseudo_inverse(self, y: Any) -> Tensor:
        """Compute ``A_dagger`` if the physics has a closed form (back-projection, an SVD)."""
        if type(self.physics).A_dagger is LinearPhysics.A_dagger:
            return super().pseudo_inverse(y)
        # This uses a copy, because A_dagger rewrites the settings of the physics.
        return cast(Tensor, self._with_buffers({}).physics.A_dagger(_to_list(y)))

    @property
    def has_normal_resolvent(self) -> bool:
        # If ``V^T`` returns fewer numbers than the image has, ``V V^T`` is not the identity.
        return (
            isinstance(self.physics, DecomposablePhysics)
            and type(self.physics).prox_l2 is DecomposablePhysics.prox_l2
            and self.domain_shape == self.range_shape
        )

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``V (weight |s|^2 + rho)^{-1} V^T v`` for a physics ``U diag(s) V^T``."""
        if not self.has_normal_resolvent:
            return super().normal_resolvent(v, rho, weight)
        spectral = self.physics.V_adjoint(v)
        mask = torch.as_tensor(self.physics.mask)
        power = mask.abs().square()
        real = spectral.real
        scale = expand(weight, real) * power + expand(rho, real)
        return cast(Tensor, self.physics.V(spectral / scale))


def from_physics(
    physics: Physics, domain_shape: Sequence[int] | None = None, channelwise: bool = False
) -> Operator:
    """Convert a physics to an operator.

    Stacked and composed physics become stacks and compositions, missing pixels `Inpainting`, and
    noise alone `Identity`.
    """
    if isinstance(physics, (OperatorPhysics, OperatorLinearPhysics)):
        return physics.operator
    if isinstance(physics, StackedPhysics):
        return stack(
            [from_physics(stage, domain_shape, channelwise) for stage in physics.physics_list]
        )
    if isinstance(physics, ComposedPhysics):
        operator = from_physics(physics.physics_list[0], domain_shape, channelwise)
        for stage in physics.physics_list[1:]:
            operator = (
                from_physics(stage, cast("tuple[int, ...]", operator.range_shape), channelwise)
                @ operator
            )
        return operator
    is_masked = isinstance(physics, PhysicsOfMissingPixels) and (
        type(physics).A is PhysicsOfMissingPixels.A
    )
    if is_masked and isinstance(physics.mask, Tensor):
        # Its gaps are then known to initial guesses, rules for the weight and comparisons.
        return Inpainting(physics.mask.detach().clone(), domain_shape or physics.mask.shape[1:])
    if type(physics) is Denoising:
        # A noisy picture has rules for its weight and comparisons that suit no other measurements.
        return Identity(_domain_shape(physics, domain_shape))
    kind = DeepinvLinearOperator if isinstance(physics, LinearPhysics) else DeepinvOperator
    return kind(physics, domain_shape, channelwise)


def operator_of(y: Any, physics: Physics, domain_shape: Sequence[int] | None) -> Operator:
    """Return the operator of a physics.

    Args:
        y: measurements, from whose adjoint the shape of the images follows if nothing else states
            it.
        physics: a physics of deepinv.
        domain_shape: shape ``(channel, *space)`` of the images, or None.
    """
    if not isinstance(physics, Physics):
        raise InputError(
            "a model of as_reconstructor is called with a deepinv physics, model(y, physics), got "
            f"{type(physics).__name__}; it.to_deepinv(A) converts an operator"
        )
    if domain_shape is None:
        try:
            operator = from_physics(physics)
            width = getattr(physics, "img_width", None)
            if width and isinstance(y, Tensor) and y.ndim == 4 and y.shape[1] > 1:
                # Scans state no number of channels, and treat every channel alike.
                return from_physics(physics, (y.shape[1], width, width))
            return operator
        except InputError:
            if not isinstance(physics, LinearPhysics):
                raise
            domain_shape = _shape_of_adjoint(y, physics)
    return from_physics(physics, domain_shape)


def _shape_of_adjoint(y: Any, physics: LinearPhysics) -> tuple[int, ...]:
    """Return the shape ``(channel, *space)`` of the adjoint of measurements with a batch axis."""
    reason = "its adjoint has no axes of batch, channel and space"
    try:
        with torch.no_grad():
            image = copy_physics(physics).A_adjoint(y)
        if image.ndim > 2:
            return tuple(image.shape[1:])
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = f"its adjoint raised {type(error).__name__}: {error}"
    shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
    raise InputError(
        f"{type(physics).__name__} does not state the shape of its images, which does not follow from "
        f"measurements of {shape} either: {reason}; give y as (batch, channel, ...) in the precision "
        "of the physics, or it.as_operator(physics, (channel, rows, columns))"
    )


S = TypeVar("S", bound=Settings)


def place_like(settings: S, fn: Any) -> S:
    """Move settings as a function moves tensors, which `torch.nn.Module` passes to ``_apply``."""
    single, double = fn(torch.zeros(1)), fn(torch.zeros(1, dtype=torch.float64))
    cast_to = single.dtype if single.dtype == double.dtype else None
    return settings.to(device=single.device, dtype=cast_to)


class _Bridge:
    """Base of both physics: the operator, its parameters as keywords, and moves between devices."""

    operator: Operator

    @property
    def mask(self) -> Tensor:
        """Mask of the operator, which networks of deepinv read."""
        mask = self.operator.parameters().get("mask")
        if mask is None:
            raise AttributeError(f"{self.operator} has no mask")
        return mask

    def A(self, x: Tensor, **parameters: Any) -> Any:
        return _to_list(self._with(parameters)(x))

    def _with(self, parameters: dict[str, Any]) -> Operator:
        names = self.operator.parameters()
        replacements = {k: v for k, v in parameters.items() if k in names and v is not None}
        return self.operator.with_parameters(**replacements) if replacements else self.operator

    def update_parameters(self, **parameters: Any) -> None:
        self.operator = self._with(parameters)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        module = super()._apply(fn, recurse)  # type: ignore[misc]
        # The base class moves itself during its construction, before there is an operator.
        if "operator" in self.__dict__:
            self.operator = place_like(self.operator, fn)
        return module


class OperatorPhysics(_Bridge, Physics):  # type: ignore[misc]
    """Operator as a deepinv physics without noise."""

    def __init__(self, operator: Operator) -> None:
        super().__init__(noise_model=ZeroNoise())
        self.img_size = operator.domain_shape
        self.operator = operator


class OperatorLinearPhysics(_Bridge, LinearPhysics):  # type: ignore[misc]
    """Linear operator as a deepinv physics without noise; it uses the operator's closed forms."""

    operator: LinearOperator

    def __init__(self, operator: LinearOperator) -> None:
        device = next(
            (value.device for value in operator.parameters().values()), torch.device("cpu")
        )
        # deepinv's defaults, 50 iterations and 1e-4, are too few for a blur or a scan.
        super().__init__(
            img_size=operator.domain_shape,
            noise_model=ZeroNoise(),
            max_iter=500,
            tol=1e-5,
            device=device,
        )
        self.operator = operator

    def A_adjoint(self, y: Any, **parameters: Any) -> Tensor:
        return cast(LinearOperator, self._with(parameters)).adjoint(to_tuple(y))

    def A_dagger(
        self,
        y: Any,
        solver: str | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        **parameters: Any,
    ) -> Tensor:
        """Compute the least-squares image of smallest norm.

        An exact closed form of the operator is used if it has one, otherwise conjugate gradients on
        the normal equations (CGLS). ``operator.pseudo_inverse`` computes the approximate inverses,
        such as filtered back-projection.

        Args:
            y: measurements.
            solver: deepinv's name of a solver, accepted because deepinv passes it; all names use
                CGLS.
            max_iter: largest number of iterations; by default the physics' ``max_iter``.
            tol: tolerance on the gradient relative to the first gradient; by default the physics'
                ``tol``.
            parameters: parameters of the operator, by name.
        """
        operator = cast(LinearOperator, self._with(parameters))
        if type(operator).pseudo_inverse in _EXACT:
            return operator.pseudo_inverse(to_tuple(y))
        return least_squares(
            operator,
            to_tuple(y),
            self.max_iter if max_iter is None else max_iter,
            self.tol if tol is None else tol,
        )

    def prox_l2(self, z: Any, y: Any, gamma: Any, **keywords: Any) -> Any:
        if not self.operator.has_normal_resolvent:
            return super().prox_l2(z, y, gamma, **keywords)
        gamma = gamma.flatten() if isinstance(gamma, Tensor) and gamma.ndim else gamma
        right = self.A_adjoint(y)
        right = expand(gamma, right) * right + (0 if z is None else z)
        return self.operator.normal_resolvent(right, 1.0, gamma)


#: Closed forms that are the pseudo-inverse itself. The others are regularized or approximate.
_EXACT = frozenset(
    kind.pseudo_inverse
    for kind in (Downsampling, Identity, Inpainting, Matrix, Sampling, Unitary, Unmixing)
)


def least_squares(
    operator: LinearOperator, y: Any, max_iterations: int, tolerance: float
) -> Tensor:
    """Compute the least-squares image of smallest norm by conjugate gradients (CGLS).

    The iteration starts at zero and stays in the range of the adjoint, where the least-squares
    image of smallest norm lies. An item stops when the norm of ``A^H (y - A x)`` is ``tolerance``
    times that of ``A^H y``; the other items do not matter. The result is differentiable in ``y``
    and in the parameters of the operator.

    Source: A. Bjorck, *Numerical methods for least squares problems*, SIAM, 1996, section 7.4.

    Args:
        operator: the linear operator A.
        y: measurements, a tensor or a tuple.
        max_iterations: largest number of iterations.
        tolerance: relative tolerance.
    """
    # Unit measurements keep the squares below within the range of float32.
    size = torch.stack([block.abs().flatten(1).amax(1) for block in _parts(y)]).amax(0).detach()
    size = torch.where(size > 0, size, 1)
    residual = tree_map(lambda block: block / expand(size, block), y)
    slope = direction = operator.adjoint(residual)
    x, power = torch.zeros_like(slope), inner(slope, slope)
    stop = tolerance**2 * power.detach()
    # `slope` is A^H r, `power` its square norm, `direction` the conjugate direction p.
    for _ in range(max_iterations):
        is_active = power > stop
        if not bool(is_active.any()):
            break
        image = operator(direction)
        curvature = inner(image, image)
        is_active = is_active & (curvature > 0)
        step = torch.where(is_active, power / torch.where(is_active, curvature, 1), 0)
        x = x + expand(step, x) * direction
        parts = [r - expand(step, r) * p for r, p in zip(_parts(residual), _parts(image))]
        residual = tuple(parts) if isinstance(residual, tuple) else parts[0]
        slope = operator.adjoint(residual)
        new = torch.where(is_active, inner(slope, slope), 0)
        ratio = new / torch.where(is_active, power, 1)
        direction, power = slope + expand(ratio, slope) * direction, new
    return x * expand(size, x)


def _parts(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _domain_shape(physics: Physics, declared: Sequence[int] | None) -> tuple[int, ...]:
    width = getattr(physics, "img_width", None)
    for shape in (
        declared,
        getattr(physics, "img_size", None),
        getattr(physics, "imsize", None),
        (1, width, width) if width else None,
    ):
        if shape is not None:
            return tuple(int(n) for n in shape)
    raise InputError(
        f"deepinv's {type(physics).__name__} does not define the shape of its images; pass "
        "it.as_operator(physics, domain_shape=(channel, rows, columns)) in its place"
    )


def copy_physics(physics: Physics) -> Physics:
    """Copy a physics and its generators of random numbers; a distributed one shares its processes.

    `Physics.clone` walks every object that the physics can reach, the modules of its functions
    included, in search of generators, which `copy.deepcopy` could not copy before torch 2.5.
    """
    if type(physics).clone is not Physics.clone:
        return physics.clone()
    context = getattr(physics, "ctx", None)
    return copy.deepcopy(physics, None if context is None else {id(context): context})


def to_tuple(value: Any) -> Any:
    """Return the tensors of deepinv's ``TensorList`` as a tuple, and other values as they are."""
    return tuple(value.x) if isinstance(value, TensorList) else value


def _to_list(value: Any) -> Any:
    return TensorList(list(value)) if isinstance(value, (tuple, list)) else value
