"""The Warp kernels that render voxels along rays, and their transpose. See `invtoolbox.kernels.rendering.voxel_rendering`.

Importing this module starts Warp. Layout of the data: nodes of a grid ``(X, Y, Z)``, the last axis fastest; a node that is kept has a row
of the density ``(rows)`` and of the color ``(rows, BASES, CHANNELS)``. Rays come in units of the grid: node (i, j, k) lies at (i, j, k).
"""
# mypy: ignore-errors

from functools import cache

import torch

from invtoolbox.kernels.launch import warp
from invtoolbox.kernels.native import REAL, filled

wp = warp()

# A task renders every `parts`-th ray of one item. On the CPU a part has gradients of its own, so that no two threads write to one place.
_RAYS = """
        const int item = task / a.parts, part = task % a.parts;
        const REAL step = (REAL)a.step, near = (REAL)a.near, far = (REAL)a.far, stop = (REAL)a.stop;
        const REAL least = (REAL)a.least, scale = (REAL)a.scale;
        const REAL* rho = (const REAL*)a.density + (size_t)item * a.rows;
        const REAL* field = (const REAL*)a.color + (size_t)item * a.rows * COLORS;
        const int top[3] = {a.nx - 1, a.ny - 1, a.nz - 1};
        for (int ray = part; ray < a.rays; ray += a.parts) {
            const size_t here = (size_t)(a.shared_rays ? 0 : item) * a.rays + ray;
            const REAL* o = (const REAL*)a.origins + 3 * here;
            const REAL* d = (const REAL*)a.directions + 3 * here;
            const REAL offset = ((const REAL*)a.offsets)[here];
            const REAL* basis = (const REAL*)a.bases + BASES * here;
            REAL enter = near, leave = far, inverse[3];
            for (int x = 0; x < 3; ++x) {
                inverse[x] = (REAL)0;
                if (d[x] == (REAL)0) {
                    if (o[x] < (REAL)0 || o[x] > (REAL)top[x])
                        leave = -(REAL)1;
                    continue;
                }
                inverse[x] = (REAL)1 / d[x];
                const REAL one = -o[x] * inverse[x], two = ((REAL)top[x] - o[x]) * inverse[x];
                const REAL low = one < two ? one : two, high = one < two ? two : one;
                enter = low > enter ? low : enter;
                leave = high < leave ? high : leave;
            }
            // Samples lie at (k + offset) * step from the ray's origin, whatever the box is: a pose can be moved without moving them.
            int k = 0, last = -1;
            if (enter <= leave) {
                const REAL from = enter / step - offset;
                k = (int)from;
                k += (REAL)k < from;
                last = (int)(leave / step - offset + (REAL)1) - 1;
            }
            REAL light = (REAL)1;
"""

# The sample number k: where it lies, whether it is skipped, its density.
_SAMPLE = """
                const REAL t = ((REAL)k + offset) * step;
                int cell[3];
                REAL f[3];
                for (int x = 0; x < 3; ++x) {
                    const REAL u = o[x] + t * d[x];
                    int i = (int)u;
                    i = i < 0 ? 0 : i;
                    cell[x] = i = i < top[x] ? i : top[x] - 1;
                    f[x] = u - (REAL)i;
                }
                if (a.clearance) {
                    const int clear = ((const unsigned char*)a.clearance)[((size_t)cell[0] * top[1] + cell[1]) * top[2] + cell[2]];
                    if (clear > 0) {
                        // Nothing within the cube of clear - 1 cells around this one: on to where the ray leaves it, or a sample before.
                        REAL out = leave;
                        for (int x = 0; x < 3; ++x) {
                            if (d[x] == (REAL)0)
                                continue;
                            const REAL wall = d[x] > (REAL)0 ? (REAL)(cell[x] + clear) : (REAL)(cell[x] - clear + 1);
                            const REAL way = (wall - o[x]) * inverse[x];
                            out = way < out ? way : out;
                        }
                        const int next = (int)(out / step - offset);
                        k = next > k + 1 ? next : k + 1;
                        continue;
                    }
                }
                ++k;
                const REAL e0 = (REAL)1 - f[0], e1 = (REAL)1 - f[1], e2 = (REAL)1 - f[2];
                const REAL w[8] = {e0 * e1 * e2, e0 * e1 * f[2], e0 * f[1] * e2, e0 * f[1] * f[2],
                                   f[0] * e1 * e2, f[0] * e1 * f[2], f[0] * f[1] * e2, f[0] * f[1] * f[2]};
                const size_t base = ((size_t)cell[0] * a.ny + cell[1]) * a.nz + cell[2];
                const size_t near_row = base + a.nz, far_row = base + (size_t)a.ny * a.nz;
                size_t at[8] = {base, base + 1, near_row, near_row + 1, far_row, far_row + 1, far_row + a.nz, far_row + a.nz + 1};
                if (a.numbers) {
                    int absent = 0;
                    for (int q = 0; q < 8; ++q) {
                        const int number = ((const int*)a.numbers)[at[q]];
                        absent |= number < 0;
                        at[q] = (size_t)number;
                    }
                    if (absent)
                        continue;
                }
                REAL s = (REAL)0;
                for (int q = 0; q < 8; ++q)
                    s += w[q] * rho[at[q]];
                if (s < least)
                    continue;
                // softplus, and its slope
                const REAL small = EXP(s > (REAL)0 ? -s : s);
                const REAL series = small * ((REAL)1 - small * ((REAL)0.5 - small * ((REAL)(1.0 / 3) - small * (REAL)0.25)));
                const REAL logarithm = small < (REAL)1e-3 ? series : LOG((REAL)1 + small);
                const REAL tau = step * scale * ((s > (REAL)0 ? s : (REAL)0) + logarithm);
                const REAL passed = EXP(-tau);
                const REAL alpha = tau < (REAL)1e-3 ? tau * ((REAL)1 - tau * ((REAL)0.5 - tau * ((REAL)(1.0 / 6) - tau * (REAL)(1.0 / 24))))
                                                    : (REAL)1 - passed;
                const REAL weight = light * alpha;
#if COLORS > 0
                REAL v[COLORS], raw[CHANNELS];
                for (int c = 0; c < COLORS; ++c)
                    v[c] = (REAL)0;
                for (int q = 0; q < 8; ++q) {
                    const REAL* node = field + at[q] * COLORS;
                    for (int c = 0; c < COLORS; ++c)
                        v[c] += w[q] * node[c];
                }
                for (int c = 0; c < CHANNELS; ++c) {
                    REAL sum = (REAL)0;
                    for (int b = 0; b < BASES; ++b)
                        sum += basis[b] * v[b * CHANNELS + c];
                    raw[c] = (REAL)1 / ((REAL)1 + EXP(-sum));
                }
#endif
"""

_FORWARD = (
    _RAYS
    + """
            REAL depth = (REAL)0, opacity = (REAL)0, thickness = (REAL)0, median = (REAL)INFINITE;
            REAL sum_of[CHANNELS + 1];
            for (int c = 0; c <= CHANNELS; ++c)
                sum_of[c] = (REAL)0;
            while (k <= last) {
"""
    + _SAMPLE
    + """
#if COLORS > 0
                for (int c = 0; c < CHANNELS; ++c)
                    sum_of[c] += weight * raw[c];
#endif
                opacity += weight;
                depth += weight * t;
                thickness += tau;
                const REAL after = light * passed;
                if (light >= (REAL)0.5 && after < (REAL)0.5)
                    median = t + step * (LOG((REAL)2 * light) / tau - (REAL)0.5);
                light = after;
                if (light < stop)
                    break;
            }
            const size_t to = (size_t)item * a.rays + ray;
            for (int c = 0; c < CHANNELS; ++c)
                ((REAL*)a.colors_out)[to * CHANNELS + c] = sum_of[c];
            REAL* rest = (REAL*)a.rest_out + 4 * to;
            rest[0] = opacity;
            rest[1] = depth;
            rest[2] = thickness;
            rest[3] = median;
        }
"""
)

# With w_k = T_k alpha_k, T_{k+1} = T_k exp(-tau_k) and S = sum_k w_k q_k:  dS / dtau_k = T_{k+1} q_k - sum_{j > k} w_j q_j.
_BACKWARD = (
    _RAYS
    + """
            const size_t to = (size_t)item * a.rays + ray;
            const REAL* given = (const REAL*)a.colors_grad + to * CHANNELS;
            const REAL* of_rest = (const REAL*)a.rest_grad + 4 * to;
            const REAL* rest = (const REAL*)a.rest_out + 4 * to;
            const size_t buffer = ATOMIC ? (size_t)item : (size_t)item * a.parts + part;
            REAL* rho_grad = (REAL*)a.density_grad + buffer * a.rows;
            REAL* field_grad = (REAL*)a.color_grad + buffer * a.rows * COLORS;
            REAL left = of_rest[0] * rest[0] + of_rest[1] * rest[1];
            for (int c = 0; c < CHANNELS; ++c)
                left += given[c] * ((const REAL*)a.colors_out)[to * CHANNELS + c];
            REAL o_grad[3] = {(REAL)0, (REAL)0, (REAL)0}, d_grad[3] = {(REAL)0, (REAL)0, (REAL)0}, b_grad[BASES];
            for (int b = 0; b < BASES; ++b)
                b_grad[b] = (REAL)0;
            while (k <= last) {
"""
    + _SAMPLE
    + """
                REAL q_k = of_rest[0] + of_rest[1] * t;
#if COLORS > 0
                REAL v_grad[COLORS];
                for (int c = 0; c < CHANNELS; ++c) {
                    q_k += given[c] * raw[c];
                    const REAL slope = weight * given[c] * raw[c] * ((REAL)1 - raw[c]);
                    for (int b = 0; b < BASES; ++b) {
                        v_grad[b * CHANNELS + c] = slope * basis[b];
                        if (OF_RAYS)
                            b_grad[b] += slope * v[b * CHANNELS + c];
                    }
                }
#endif
                light *= passed;
                left -= weight * q_k;
                const REAL slope_of_softplus = s > (REAL)0 ? (REAL)1 / ((REAL)1 + small) : small / ((REAL)1 + small);
                const REAL s_grad = (light * q_k - left + of_rest[2]) * step * scale * slope_of_softplus;
                REAL corner[8];
                for (int q = 0; q < 8; ++q) {
                    if (ATOMIC)
                        wp::atomic_add(rho_grad + at[q], w[q] * s_grad);
                    else
                        rho_grad[at[q]] += w[q] * s_grad;
                    if (OF_RAYS)
                        corner[q] = s_grad * rho[at[q]];
#if COLORS > 0
                    REAL* node = field_grad + at[q] * COLORS;
                    for (int c = 0; c < COLORS; ++c) {
                        if (ATOMIC)
                            wp::atomic_add(node + c, w[q] * v_grad[c]);
                        else
                            node[c] += w[q] * v_grad[c];
                    }
                    if (OF_RAYS) {
                        const REAL* value = field + at[q] * COLORS;
                        for (int c = 0; c < COLORS; ++c)
                            corner[q] += v_grad[c] * value[c];
                    }
#endif
                }
                if (OF_RAYS) {
                    const REAL u[3] = {
                        e1 * (e2 * (corner[4] - corner[0]) + f[2] * (corner[5] - corner[1]))
                            + f[1] * (e2 * (corner[6] - corner[2]) + f[2] * (corner[7] - corner[3])),
                        e0 * (e2 * (corner[2] - corner[0]) + f[2] * (corner[3] - corner[1]))
                            + f[0] * (e2 * (corner[6] - corner[4]) + f[2] * (corner[7] - corner[5])),
                        e0 * (e1 * (corner[1] - corner[0]) + f[1] * (corner[3] - corner[2]))
                            + f[0] * (e1 * (corner[5] - corner[4]) + f[1] * (corner[7] - corner[6]))};
                    for (int x = 0; x < 3; ++x) {
                        o_grad[x] += u[x];
                        d_grad[x] += t * u[x];
                    }
                }
                if (light < stop)
                    break;
            }
            if (OF_RAYS) {
                for (int x = 0; x < 3; ++x) {
                    ((REAL*)a.origins_grad)[3 * to + x] = o_grad[x];
                    ((REAL*)a.directions_grad)[3 * to + x] = d_grad[x];
                }
                for (int b = 0; b < BASES; ++b)
                    ((REAL*)a.bases_grad)[BASES * to + b] = b_grad[b];
            }
        }
"""
)


def _source(
    template: str, dtype: torch.dtype, bases: int, channels: int, of_rays: bool, atomic: bool
) -> str:
    double = dtype == torch.float64
    return filled(
        template,
        {
            "REAL": REAL[dtype],
            "EXP": "exp" if double else "expf",
            "LOG": "log" if double else "logf",
            "COLORS": bases * channels,
            "BASES": bases,
            "CHANNELS": channels,
            "INFINITE": "1e30",
            "OF_RAYS": of_rays,
            "ATOMIC": atomic,
        },
    )


@wp.struct
class Arguments:
    """What both kernels are given: addresses (0 where there is nothing) and numbers."""

    density: wp.uint64
    color: wp.uint64
    numbers: wp.uint64
    clearance: wp.uint64
    origins: wp.uint64
    directions: wp.uint64
    offsets: wp.uint64
    bases: wp.uint64
    colors_out: wp.uint64
    rest_out: wp.uint64
    colors_grad: wp.uint64
    rest_grad: wp.uint64
    density_grad: wp.uint64
    color_grad: wp.uint64
    origins_grad: wp.uint64
    directions_grad: wp.uint64
    bases_grad: wp.uint64
    shared_rays: int
    rows: int
    rays: int
    parts: int
    nx: int
    ny: int
    nz: int
    step: wp.float64
    near: wp.float64
    far: wp.float64
    stop: wp.float64
    least: wp.float64
    scale: wp.float64


@cache
def render_kernel(dtype: torch.dtype, bases: int, channels: int):
    """The kernel that renders, for a precision, and so many basis functions and channels of the color."""
    return _kernel(_source(_FORWARD, dtype, bases, channels, False, False))


@cache
def gradient_kernel(dtype: torch.dtype, bases: int, channels: int, of_rays: bool, atomic: bool):
    """Its transpose; ``of_rays`` adds the gradient in the rays, ``atomic`` is for parts that share their gradients."""
    return _kernel(_source(_BACKWARD, dtype, bases, channels, of_rays, atomic))


def _kernel(snippet: str):
    @wp.func_native(snippet=snippet)
    def run_task(a: Arguments, task: int): ...

    @wp.kernel(module="unique", enable_backward=False)
    def kernel(a: Arguments, first_task: int):
        run_task(a, wp.tid() + first_task)

    return kernel
