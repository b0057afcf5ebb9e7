// Arguments: EventArguments of event_votes.py.
//
// Compute the derivative of a function of the picture of one item at one reference time in the flow,
// from the derivative in the picture (`pictures`); see event_votes.cpp for the place of an event.
{
#include "event_place.h"
    const int item = task / references;
    const REAL r = ((const REAL*)reference_times)[task % references];
    const REAL* p = (const REAL*)places + 2 * (long long)item * count;
    const REAL* t = (const REAL*)times + (long long)item * count;
    const REAL* weight = (const REAL*)weights + (long long)item * count;
    const long long points = (long long)grid_times * grid_rows * grid_columns;
    const REAL* u = (const REAL*)flow + 2 * item * points;
    const int rows = height + 2 * margin, columns = width + 2 * margin;
    const REAL* picture = (const REAL*)pictures + (long long)task * rows * columns;
    REAL* slope = (REAL*)slopes + 2 * task * points;
    const auto add = [&](const Corner& c, REAL across_slope, REAL down_slope) {
        for (int late = 0; late < 2; ++late)
            for (int below = 0; below < 2; ++below)
                for (int right = 0; right < 2; ++right) {
                    const REAL share = (late ? c.time : 1 - c.time) *
                                       (below ? c.down : 1 - c.down) *
                                       (right ? c.across : 1 - c.across);
                    REAL* target = slope + c.index + late * next_time + below * next_row +
                                   right * next_column;
                    target[0] += share * across_slope;
                    target[1] += share * down_slope;
                }
    };
    for (int i = 0; i < count; ++i) {
        if (weight[i] == 0) continue;
        const REAL s = r - t[i];
        const Corner start = locate(t[i], p[2 * i + 1], p[2 * i]);
        const Corner middle = halfway(u, p + 2 * i, t[i], s, start);
        REAL place[2];
        REAL change_across[2], change_down[2];  // derivatives of the flow halfway, per pixel
        for (int k = 0; k < 2; ++k) {
            const REAL left = at_column(u, middle, k, 0), right = at_column(u, middle, k, 1);
            change_across[k] = middle.inside_across ? columns_per_pixel * (right - left) : 0;
            change_down[k] = middle.inside_down ? rows_per_pixel * (at_row(u, middle, k, 1) -
                                                                    at_row(u, middle, k, 0))
                                                : 0;
            place[k] = p[2 * i + k] + s * mix(left, right, middle.across) + (REAL)margin;
        }
        if (!(place[0] > -1 && place[0] < columns && place[1] > -1 && place[1] < rows)) continue;
        const int column = (int)(place[0] + 1) - 1, row = (int)(place[1] + 1) - 1;
        const REAL across = place[0] - (REAL)column, down = place[1] - (REAL)row;
        REAL corner[2][2];
        for (int below = 0; below < 2; ++below)
            for (int right = 0; right < 2; ++right) {
                const int y = row + below, x = column + right;
                const bool inside = y >= 0 && y < rows && x >= 0 && x < columns;
                corner[below][right] = inside ? picture[(long long)y * columns + x] : 0;
            }
        // dL/dp' of the bilinear shares.
        const REAL pull[2] = {weight[i] * mix(corner[0][1] - corner[0][0],
                                              corner[1][1] - corner[1][0], down),
                              weight[i] * mix(corner[1][0] - corner[0][0],
                                              corner[1][1] - corner[0][1], across)};
        add(middle, s * pull[0], s * pull[1]);
        // Through the place halfway: dm/df = s / 2.
        const REAL through = (REAL)0.5 * s * s;
        add(start, through * (pull[0] * change_across[0] + pull[1] * change_across[1]),
            through * (pull[0] * change_down[0] + pull[1] * change_down[1]));
    }
}
