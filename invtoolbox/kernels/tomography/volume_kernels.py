"""Warp kernels of Joseph's method in 3D, ray by ray: one source for the CPU and CUDA.

These kernels read the volume where it lies, (D, H, W). They are all that CUDA needs; on the CPU
`volume_slab_kernels` is much faster at projection and back-projection, and these give the derivatives in the geometry.

A ray is set up in float64 from the 13 numbers of its view (`volume_table`) and then followed in the volume's precision. With `m` its
main axis and `a`, `b` the two others, it lies at ``offset_a + slope_a t`` on the plane `t`, counted from the middle one. All kernels
compute the family

    y = c0 sum(sample) + sum((a0 + a1 t) d(sample)/da + (b0 + b1 t) d(sample)/db),

whose first term is the projection (c0 = the ray's length between two planes) and whose others are its derivatives.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from invtoolbox.kernels.native import REAL, native_kernel

# The ray of cell (r, c) of view T: point P, direction d, main axis m. `fma` is spelled out so that every kernel rounds alike: a ray must
# have one main axis, whichever kernel looks.
_RAY = """
            const double cp = (double)c - 0.5 * (double)(columns - 1);
            const double rp = (double)r - 0.5 * (double)(rows - 1);
            const double sine = CURVED ? sin(cp * T[12]) : 0.0, cosine = CURVED ? cos(cp * T[12]) : 1.0;
            double P[3], d[3];
            for (int k = 0; k < 3; ++k) {
                const double middle = CURVED ? fma(sine, T[6 + k], cosine * T[3 + k]) : fma(cp, T[6 + k], T[3 + k]);
                const double cell = fma(rp, T[9 + k], middle);
                P[k] = PARALLEL ? cell : T[k];
                d[k] = PARALLEL ? T[k] : cell;
            }
            const double dx = fabs(d[0]), dy = fabs(d[1]), dz = fabs(d[2]);
            const int m = dx >= dy ? (dx >= dz ? 0 : 2) : (dy >= dz ? 1 : 2);
            const int a = m == 1 ? 0 : 1, b = m == 2 ? 0 : 2;
            const double slope_a = d[a] / d[m], slope_b = d[b] / d[m];
            const double D2 = size_x * size_x * d[0] * d[0] + size_y * size_y * d[1] * d[1] + size_z * size_z * d[2] * d[2];
            const double length = sqrt(D2) / fabs(d[m]);
            // Positions count from the zero in front of the first voxel.
            const double start_a = P[a] - slope_a * P[m] + 0.5 * (double)(n[a] - 1) + 1.0;
            const double start_b = P[b] - slope_b * P[m] + 0.5 * (double)(n[b] - 1) + 1.0;
            const double middle_m = 0.5 * (double)(n[m] - 1);
"""
# The planes on which the ray is inside, one to spare on either side: what is outside adds nothing.
_RANGE = """
            int from = 0, to = n[m];
            for (int side = 0; side < 2; ++side) {
                const double start = side ? start_b : start_a, slope = side ? slope_b : slope_a;
                const double last = (double)(n[side ? b : a] + 1);
                if (slope != 0.0) {
                    const double p = -start / slope + middle_m, q = (last - start) / slope + middle_m;
                    const double low = (p < q ? p : q) - 1.0, high = (p < q ? q : p) + 2.0;
                    from = low > (double)from ? (low < (double)to ? (int)low : to) : from;
                    to = high < (double)to ? (high > 0.0 ? (int)high : 0) : to;
                } else if (start <= 0.0 || start >= last) {
                    to = 0;
                }
            }
"""
# How the numbers of the family change with the table, in the direction E.
_TANGENT = """
            double dP[3], dd[3];
            for (int k = 0; k < 3; ++k) {
                double cell = CURVED ? fma(sine, E[6 + k], cosine * E[3 + k]) : fma(cp, E[6 + k], E[3 + k]);
                cell = fma(rp, E[9 + k], cell);
                if (CURVED)
                    cell += cp * E[12] * (cosine * T[6 + k] - sine * T[3 + k]);
                dP[k] = PARALLEL ? cell : E[k];
                dd[k] = PARALLEL ? E[k] : cell;
            }
            const double da1 = (dd[a] - slope_a * dd[m]) / d[m], db1 = (dd[b] - slope_b * dd[m]) / d[m];
            const double da0 = dP[a] - slope_a * dP[m] - da1 * P[m], db0 = dP[b] - slope_b * dP[m] - db1 * P[m];
            const double along = size_x * size_x * d[0] * dd[0] + size_y * size_y * d[1] * dd[1] + size_z * size_z * d[2] * dd[2];
            const REAL c0 = (REAL)(length * (along / D2 - dd[m] / d[m]));
            const REAL a0 = (REAL)(length * da0), a1 = (REAL)(length * da1), b0 = (REAL)(length * db0), b1 = (REAL)(length * db1);
"""
_NO_TANGENT = """
            const REAL c0 = (REAL)length, a0 = (REAL)0, a1 = (REAL)0, b0 = (REAL)0, b1 = (REAL)0;
"""
# Plane k: the four voxels around the ray, which of them exist, and the weights.
_SAMPLE = """
                const REAL t = (REAL)k - (REAL)middle_m;
                const REAL xa = (REAL)start_a + (REAL)slope_a * t, xb = (REAL)start_b + (REAL)slope_b * t;
                if (!(xa > (REAL)0 && xa < (REAL)(n[a] + 1) && xb > (REAL)0 && xb < (REAL)(n[b] + 1)))
                    continue;
                const int ia = (int)xa, ib = (int)xb;
                const REAL wa = xa - (REAL)ia, wb = xb - (REAL)ib;
                const bool a_low = ia > 0, a_high = ia < n[a], b_low = ib > 0, b_high = ib < n[b];
                const long long at = (long long)k * step[m] + (long long)(ia - 1) * step[a] + (long long)(ib - 1) * step[b];
"""
_SIZES = """
        const int n[3] = {width, height, depth};
        const long long step[3] = {1, width, (long long)width * height};
        const long long voxels = (long long)width * height * depth;
        const long long cells = (long long)rows * columns;
"""
_SUMS = """
                const REAL v00 = a_low && b_low ? x[at] : (REAL)0, v01 = a_low && b_high ? x[at + step[b]] : (REAL)0;
                const REAL v10 = a_high && b_low ? x[at + step[a]] : (REAL)0;
                const REAL v11 = a_high && b_high ? x[at + step[a] + step[b]] : (REAL)0;
                const REAL low = v00 + wb * (v01 - v00), high = v10 + wb * (v11 - v10);
                const REAL along_a = high - low, along_b = (v01 - v00) + wa * ((v11 - v10) - (v01 - v00));
                sum0 += low + wa * along_a;
                sum_a0 += along_a;
                sum_a1 += along_a * t;
                sum_b0 += along_b;
                sum_b1 += along_b * t;
"""

# One task: one ray of one item.
_PROJECT = (
    _SIZES
    + """
        const int c = task % columns, r = task / columns % rows;
        const int view = task / columns / rows % views, item = task / columns / rows / views;
        const double* T = (const double*)table + 13 * view;
        const double* E = (const double*)tangent + 13 * view;
        const REAL* x = (const REAL*)volume + (long long)item * voxels;
"""
    + _RAY
    + _RANGE
    + "ROLE_OF_RAY"
    + """
            REAL sum0 = 0, sum_a0 = 0, sum_a1 = 0, sum_b0 = 0, sum_b1 = 0;
            for (int k = from; k < to; ++k) {
"""
    + _SAMPLE
    + _SUMS
    + """
            }
            ((REAL*)projections)[((long long)item * views + view) * cells + r * columns + c] =
                c0 * sum0 + a0 * sum_a0 + a1 * sum_a1 + b0 * sum_b0 + b1 * sum_b1;
"""
)

# One task: a row of cells of a view. The derivative of <projections, A volume> in the 13 numbers of the view, summed over the row's cells
# and the items; row by row, so that no two tasks add to one place and the order of the sums is fixed.
_GEOMETRY = (
    _SIZES
    + """
        const int r = task % rows, view = task / rows;
        const double* T = (const double*)table + 13 * view;
        double grad[13];
        for (int k = 0; k < 13; ++k)
            grad[k] = 0.0;
        for (int c = 0; c < columns; ++c) {
"""
    + _RAY
    + _RANGE
    + """
            double g0 = 0.0, ga0 = 0.0, ga1 = 0.0, gb0 = 0.0, gb1 = 0.0;
            for (int item = 0; item < items; ++item) {
                const REAL* x = (const REAL*)volume + (long long)item * voxels;
                REAL sum0 = 0, sum_a0 = 0, sum_a1 = 0, sum_b0 = 0, sum_b1 = 0;
                for (int k = from; k < to; ++k) {
"""
    + _SAMPLE
    + _SUMS
    + """
                }
                const double y = ((const REAL*)projections)[((long long)item * views + view) * cells + r * columns + c];
                g0 += y * sum0;
                ga0 += y * sum_a0;
                ga1 += y * sum_a1;
                gb0 += y * sum_b0;
                gb1 += y * sum_b1;
            }
            // Backwards through offset, slope and length to the ray's point and direction.
            ga0 *= length;
            gb0 *= length;
            ga1 = ga1 * length - P[m] * ga0;
            gb1 = gb1 * length - P[m] * gb0;
            double gP[3], gd[3];
            const double stretch = g0 * length / D2;
            gd[0] = stretch * size_x * size_x * d[0];
            gd[1] = stretch * size_y * size_y * d[1];
            gd[2] = stretch * size_z * size_z * d[2];
            gP[a] = ga0;
            gP[b] = gb0;
            gP[m] = -slope_a * ga0 - slope_b * gb0;
            gd[a] += ga1 / d[m];
            gd[b] += gb1 / d[m];
            gd[m] -= (slope_a * ga1 + slope_b * gb1 + g0 * length) / d[m];
            for (int k = 0; k < 3; ++k) {
                const double fixed = PARALLEL ? gd[k] : gP[k], cell = PARALLEL ? gP[k] : gd[k];
                grad[k] += fixed;
                grad[3 + k] += CURVED ? cosine * cell : cell;
                grad[6 + k] += CURVED ? sine * cell : cp * cell;
                grad[9 + k] += rp * cell;
                if (CURVED)
                    grad[12] += cp * cell * (cosine * T[6 + k] - sine * T[3 + k]);
            }
        }
        for (int k = 0; k < 13; ++k)
            ((double*)out)[(long long)task * 13 + k] = grad[k];
"""
)

# The transpose. One task: one ray of one item, by atomic additions (CUDA); or, with OWNED, a few planes across the main axis `axis` of
# one item, which no other task writes to, and every ray along that axis.
_SCATTER = (
    _SIZES
    + """
#if OWNED
        const int blocks = (n[axis] + block - 1) / block;
        const int item = task / blocks;
        const int plane_from = task % blocks * block;
        const int plane_to = plane_from + block < n[axis] ? plane_from + block : n[axis];
        for (long long ray = 0; ray < views * cells; ++ray) {
            const int c = (int)(ray % columns), r = (int)(ray / columns % rows), view = (int)(ray / cells);
#else
        {
            const int c = task % columns, r = task / columns % rows;
            const int view = task / columns / rows % views, item = task / columns / rows / views;
#endif
            const double* T = (const double*)table + 13 * view;
            const double* E = (const double*)tangent + 13 * view;
            const REAL y = ((const REAL*)projections)[((long long)item * views + view) * cells + r * columns + c];
"""
    + _RAY
    + """
#if OWNED
            if (m != axis)
                continue;
#endif
"""
    + _RANGE
    + "ROLE_OF_RAY"
    + """
#if OWNED
            from = from > plane_from ? from : plane_from;
            to = to < plane_to ? to : plane_to;
#endif
            ADDEND* x = (ADDEND*)out + (long long)item * voxels;
#if FIXED
            const double unit = ((const double*)units)[item];
#endif
            for (int k = from; k < to; ++k) {
"""
    + _SAMPLE
    + """
                const REAL value = c0 * y, tangent_a = (a0 + a1 * t) * y, tangent_b = (b0 + b1 * t) * y;
                const REAL low = (REAL)1 - wa, left = (REAL)1 - wb;
                if (a_low && b_low) {
                    ADD(x + at, value * low * left - tangent_a * left - tangent_b * low);
                }
                if (a_low && b_high) {
                    ADD(x + at + step[b], value * low * wb - tangent_a * wb + tangent_b * low);
                }
                if (a_high && b_low) {
                    ADD(x + at + step[a], value * wa * left + tangent_a * left - tangent_b * wa);
                }
                if (a_high && b_high) {
                    ADD(x + at + step[a] + step[b], value * wa * wb + tangent_a * wb + tangent_b * wa);
                }
            }
        }
"""
)
_ADD = {
    "plain": ("REAL", "*(place) += (number)"),
    "atomic": ("REAL", "wp::atomic_add(place, number)"),
    # Whole numbers add up to the same whatever the order: the sum is deterministic.
    "fixed": (
        "long long",
        "wp::atomic_add((wp::int64*)(place), (wp::int64)((double)(number) * unit))",
    ),
}


@cache
def project_kernel(dtype: torch.dtype, parallel: bool, curved: bool, tangent: bool) -> Any:
    """Projection ray by ray; with ``tangent`` its derivative in the direction of a change of the table."""
    source = _PROJECT.replace("ROLE_OF_RAY", _TANGENT if tangent else _NO_TANGENT)
    return _kernel("project", source, dtype, parallel, curved)


@cache
def geometry_kernel(dtype: torch.dtype, parallel: bool, curved: bool) -> Any:
    """The gradient of ``<projections, A volume>`` in the table, in parts (V, R, 13) to be summed over the rows."""
    return _kernel("geometry", _GEOMETRY, dtype, parallel, curved)


@cache
def scatter_kernel(
    dtype: torch.dtype, parallel: bool, curved: bool, tangent: bool, add: str, owned: bool
) -> Any:
    """The transpose of `project_kernel`. ``add``: "plain", "atomic" or "fixed" (whole multiples of 1 / ``units[item]``, int64)."""
    addend, statement = _ADD[add]
    source = f"#define ADD(place, number) {statement}\n" + _SCATTER.replace(
        "ROLE_OF_RAY", _TANGENT if tangent else _NO_TANGENT
    )
    source = (
        source.replace("ADDEND", addend)
        .replace("OWNED", str(int(owned)))
        .replace("FIXED", str(int(add == "fixed")))
    )
    return _kernel("scatter", source, dtype, parallel, curved)


def _kernel(name: str, source: str, dtype: torch.dtype, parallel: bool, curved: bool) -> Any:
    return native_kernel(
        name,
        source,
        {"REAL": REAL[dtype], "PARALLEL": parallel, "CURVED": curved},
        "address volume, projections, table, tangent, out, units; int items, views, rows, columns, depth, height, width; "
        "double size_x, size_y, size_z; int axis, block",
    )
