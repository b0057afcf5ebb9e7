// Arguments: RenderingArguments of voxel_rendering.py.
//
// The transpose of the derivative of voxel_rendering.cpp. With w_k = T_k alpha_k,
// T_{k+1} = T_k exp(-tau_k) and S = sum_k w_k q_k,
//     dS/dtau_k = T_{k+1} q_k - sum_{j > k} w_j q_j.
//
// OF_RAYS adds the gradients of the rays. With ATOMIC (CUDA) the parts of an item share its
// gradients; otherwise a part has gradients of its own, so that no two threads write to one place.
#include "voxel_rendering_item.h"
for (int ray = part; ray < rays; ray += parts) {
#include "voxel_rendering_ray.h"
    const size_t to = (size_t)item * rays + ray;
    const REAL* given = (const REAL*)colors_grad + to * CHANNELS;
    const REAL* of_rest = (const REAL*)rest_grad + (SPREAD ? 6 : 4) * to;
    const REAL* rest = (const REAL*)rest_out + (SPREAD ? 6 : 4) * to;
    const size_t buffer = ATOMIC ? (size_t)item : (size_t)item * parts + part;
    REAL* rho_grad = (REAL*)density_grad + buffer * rows;
    REAL* field_grad = (REAL*)color_grad + buffer * rows * COLORS;
    // The sum over the samples from k on.
    REAL left = of_rest[0] * rest[0] + of_rest[1] * rest[1];
    for (int c = 0; c < CHANNELS; ++c)
        left += given[c] * ((const REAL*)colors_out)[to * CHANNELS + c];
#if SPREAD
    // sum_k w_k dD/dw_k = 2 D for the distortion D, and E - sum_k w_k for E = -sum_k w_k log w_k.
    left += of_rest[4] * (REAL)2 * rest[4] + of_rest[5] * (rest[5] - rest[0]);
    REAL opacity = (REAL)0, depth = (REAL)0;  // of the samples in front
#endif
    REAL o_grad[3] = {(REAL)0, (REAL)0, (REAL)0}, d_grad[3] = {(REAL)0, (REAL)0, (REAL)0};
    REAL b_grad[BASES];
    for (int b = 0; b < BASES; ++b)
        b_grad[b] = (REAL)0;
    while (k <= last) {
#include "voxel_rendering_sample.h"
        REAL q_k = of_rest[0] + of_rest[1] * t;
#if SPREAD
        // dD/dw_k = 2 sum_j w_j |t_k - t_j| + 2/3 step w_k, by the sums in front and behind.
        const REAL behind = rest[0] - opacity - weight, depth_behind = rest[1] - depth - weight * t;
        q_k += of_rest[4] * (REAL)2 *
               (t * opacity - depth + depth_behind - t * behind + step / (REAL)3 * weight);
        q_k += weight > (REAL)0 ? of_rest[5] * (-LOG(weight) - (REAL)1) : (REAL)0;
        opacity += weight;
        depth += weight * t;
#endif
#if CHANNELS > 0
        REAL v_grad[COLORS];
        for (int c = 0; c < CHANNELS; ++c) {
            q_k += given[c] * raw[c];
            const REAL slope = weight * given[c] * raw[c] * ((REAL)1 - raw[c]);
            for (int b = 0; b < BASES; ++b) {
                v_grad[b * CHANNELS + c] = slope * basis[b];
                if (OF_RAYS) b_grad[b] += slope * v[b * CHANNELS + c];
            }
        }
#endif
        light *= passed;
        left -= weight * q_k;
        const REAL softplus_slope =
            s > (REAL)0 ? (REAL)1 / ((REAL)1 + small) : small / ((REAL)1 + small);
        const REAL s_grad = (light * q_k - left + of_rest[2]) * step * scale * softplus_slope;
        REAL corner[8];
        for (int q = 0; q < 8; ++q) {
            if (ATOMIC) wp::atomic_add(rho_grad + at[q], w[q] * s_grad);
            else rho_grad[at[q]] += w[q] * s_grad;
            if (OF_RAYS) corner[q] = s_grad * rho[at[q]];
#if CHANNELS > 0
            REAL* node = field_grad + at[q] * COLORS;
            for (int c = 0; c < COLORS; ++c) {
                if (ATOMIC) wp::atomic_add(node + c, w[q] * v_grad[c]);
                else node[c] += w[q] * v_grad[c];
            }
            if (OF_RAYS) {
                const REAL* value = field + at[q] * COLORS;
                for (int c = 0; c < COLORS; ++c)
                    corner[q] += v_grad[c] * value[c];
            }
#endif
        }
        if (OF_RAYS) {
            // The slope of the trilinear interpolation.
            const REAL u[3] = {
                e1 * (e2 * (corner[4] - corner[0]) + f[2] * (corner[5] - corner[1])) +
                    f[1] * (e2 * (corner[6] - corner[2]) + f[2] * (corner[7] - corner[3])),
                e0 * (e2 * (corner[2] - corner[0]) + f[2] * (corner[3] - corner[1])) +
                    f[0] * (e2 * (corner[6] - corner[4]) + f[2] * (corner[7] - corner[5])),
                e0 * (e1 * (corner[1] - corner[0]) + f[1] * (corner[3] - corner[2])) +
                    f[0] * (e1 * (corner[5] - corner[4]) + f[1] * (corner[7] - corner[6]))};
            for (int x = 0; x < 3; ++x) {
                o_grad[x] += u[x];
                d_grad[x] += t * u[x];
            }
        }
        if (light < (REAL)stop) break;
    }
    if (OF_RAYS) {
        for (int x = 0; x < 3; ++x) {
            ((REAL*)origins_grad)[3 * to + x] = o_grad[x];
            ((REAL*)directions_grad)[3 * to + x] = d_grad[x];
        }
        for (int b = 0; b < BASES; ++b)
            ((REAL*)bases_grad)[BASES * to + b] = b_grad[b];
    }
}
