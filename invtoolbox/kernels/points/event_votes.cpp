// Arguments: EventArguments of event_votes.py.
//
// Carry the events of one item to one reference time r along its flow x, and share each among the
// four pixels around its place p' = p + s x(p + s x(p, t) / 2, t + s / 2) with s = r - t.
{
#include "event_place.h"
    const int item = task / references;
    const REAL r = ((const REAL*)reference_times)[task % references];
    const REAL* p = (const REAL*)places + 2 * (long long)item * count;
    const REAL* t = (const REAL*)times + (long long)item * count;
    const REAL* weight = (const REAL*)weights + (long long)item * count;
    const REAL* u = (const REAL*)flow + 2 * (long long)item * grid_times * grid_rows * grid_columns;
    const int rows = height + 2 * margin, columns = width + 2 * margin;
    REAL* picture = (REAL*)pictures + (long long)task * rows * columns;
    for (int i = 0; i < count; ++i) {
        if (weight[i] == 0) continue;
        const REAL s = r - t[i];
        const Corner start = locate(t[i], p[2 * i + 1], p[2 * i]);
        const Corner middle = halfway(u, p + 2 * i, t[i], s, start);
        REAL place[2];
        for (int k = 0; k < 2; ++k) {
            const REAL second =
                mix(at_column(u, middle, k, 0), at_column(u, middle, k, 1), middle.across);
            place[k] = p[2 * i + k] + s * second + (REAL)margin;
        }
        // Places far outside would overflow an integer.
        if (!(place[0] > -1 && place[0] < columns && place[1] > -1 && place[1] < rows)) continue;
        const int column = (int)(place[0] + 1) - 1, row = (int)(place[1] + 1) - 1;
        const REAL across = place[0] - (REAL)column, down = place[1] - (REAL)row;
        for (int below = 0; below < 2; ++below)
            for (int right = 0; right < 2; ++right) {
                const int y = row + below, x = column + right;
                if (y < 0 || y >= rows || x < 0 || x >= columns) continue;
                picture[(long long)y * columns + x] += weight[i] * (right ? across : 1 - across) *
                                                       (below ? down : 1 - down);
            }
    }
}
