// Arguments: EventArguments of event_votes.py.
//
// The flow at a place and a time, linear between the points of its grid, and the place at which an
// event meets a reference time.
struct Corner {
    int index;    // first of the eight corners, in numbers of the flow
    REAL time, down, across;       // shares of the upper corners
    bool inside_down, inside_across;  // beyond the grid the flow is constant
};
const REAL rows_per_pixel = (REAL)(grid_rows - 1) / (REAL)(height > 1 ? height - 1 : 1);
const REAL columns_per_pixel = (REAL)(grid_columns - 1) / (REAL)(width > 1 ? width - 1 : 1);
// Where a coordinate lies between the points of the grid along one axis.
const auto split = [](REAL scaled, int points, int& low, REAL& share) {
    const REAL last = (REAL)(points - 1);
    const REAL clamped = scaled < 0 ? 0 : (scaled > last ? last : scaled);
    const int corner = (int)clamped;
    low = corner < points - 2 ? corner : points - 2;
    share = clamped - (REAL)low;
    return scaled >= 0 && scaled <= last;
};
const auto locate = [&](REAL t, REAL y, REAL x) {
    Corner c;
    int time, row, column;
    split(t * (REAL)(grid_times - 1), grid_times, time, c.time);
    c.inside_down = split(y * rows_per_pixel, grid_rows, row, c.down);
    c.inside_across = split(x * columns_per_pixel, grid_columns, column, c.across);
    c.index = 2 * ((time * grid_rows + row) * grid_columns + column);
    return c;
};
const int next_column = 2, next_row = 2 * grid_columns, next_time = 2 * grid_rows * grid_columns;
const auto mix = [](REAL low, REAL high, REAL share) { return low + share * (high - low); };
// The flow at the column of a corner (side 0) or of the next one (side 1), component k.
const auto at_column = [&](const REAL* flow, const Corner& c, int k, int side) {
    const REAL* u = flow + c.index + side * next_column + k;
    return mix(mix(u[0], u[next_row], c.down), mix(u[next_time], u[next_time + next_row], c.down),
               c.time);
};
const auto at_row = [&](const REAL* flow, const Corner& c, int k, int side) {
    const REAL* u = flow + c.index + side * next_row + k;
    return mix(mix(u[0], u[next_column], c.across),
               mix(u[next_time], u[next_time + next_column], c.across), c.time);
};
// The corner of the flow at which an event is halfway, at t + s / 2 and p + s x(p, t) / 2.
const auto halfway = [&](const REAL* flow, const REAL* p, REAL t, REAL s, const Corner& start) {
    REAL place[2];
    for (int k = 0; k < 2; ++k) {
        const REAL first =
            mix(at_column(flow, start, k, 0), at_column(flow, start, k, 1), start.across);
        place[k] = p[k] + (REAL)0.5 * s * first;
    }
    return locate(t + (REAL)0.5 * s, place[1], place[0]);
};
