// Arguments: RenderingArguments of voxel_rendering.py.
//
// Render a part of the rays of one item: the formula of voxel_rendering.py.
#include "voxel_rendering_item.h"
for (int ray = part; ray < rays; ray += parts) {
#include "voxel_rendering_ray.h"
    REAL depth = (REAL)0, opacity = (REAL)0, thickness = (REAL)0, median = (REAL)1e30;
#if SPREAD
    REAL distortion = (REAL)0, entropy = (REAL)0;
#endif
    REAL sums[CHANNELS + 1];
    for (int c = 0; c <= CHANNELS; ++c)
        sums[c] = (REAL)0;
    while (k <= last) {
#include "voxel_rendering_sample.h"
#if CHANNELS > 0
        for (int c = 0; c < CHANNELS; ++c)
            sums[c] += weight * raw[c];
#endif
#if SPREAD
        // The sum over pairs of samples, by the sums over the samples in front.
        distortion += weight * ((REAL)2 * (t * opacity - depth) + step / (REAL)3 * weight);
        entropy -= weight > (REAL)0 ? weight * LOG(weight) : (REAL)0;
#endif
        opacity += weight;
        depth += weight * t;
        thickness += tau;
        const REAL after = light * passed;
        if (light >= (REAL)0.5 && after < (REAL)0.5)
            median = t + step * (LOG((REAL)2 * light) / tau - (REAL)0.5);
        light = after;
        if (light < (REAL)stop) break;
    }
    const size_t to = (size_t)item * rays + ray;
    for (int c = 0; c < CHANNELS; ++c)
        ((REAL*)colors_out)[to * CHANNELS + c] = sums[c];
    REAL* rest = (REAL*)rest_out + (SPREAD ? 6 : 4) * to;
    rest[0] = opacity;
    rest[1] = depth;
    rest[2] = thickness;
    rest[3] = median;
#if SPREAD
    rest[4] = distortion;
    rest[5] = entropy;
#endif
}
