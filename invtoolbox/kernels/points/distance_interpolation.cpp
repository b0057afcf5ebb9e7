// Arguments: InterpolationArguments of distance_field.py.
//
// Interpolate between the eight nodes around one point, with the slope. Outside of the grid, the
// distance to the grid is added.
const REAL* p = (const REAL*)points + 3 * (long long)task;
const int sizes[3] = {nx, ny, nz};
const REAL origin[3] = {(REAL)ox, (REAL)oy, (REAL)oz};
const REAL inverse = (REAL)1 / (REAL)cell;
int corner[3];
REAL w[3], beyond[3], outside = (REAL)0;
for (int a = 0; a < 3; ++a) {
    const REAL u = (p[a] - origin[a]) * inverse;
    const REAL last = (REAL)(sizes[a] - 1);
    const REAL inside = u > (REAL)0 ? (u < last ? u : last) : (REAL)0;  // also for NaN
    int c = (int)inside;
    corner[a] = c < sizes[a] - 2 ? c : sizes[a] - 2;
    w[a] = inside - (REAL)corner[a];
    beyond[a] = (u - inside) * (REAL)cell;
    outside += beyond[a] * beyond[a];
}
const float* at = (const float*)nodes + ((long long)corner[0] * ny + corner[1]) * nz + corner[2];
const long long sx = (long long)ny * nz, sy = nz;
// Along z, then y, then x; the slopes are by-products.
const REAL d00 = at[1] - at[0], d01 = at[sy + 1] - at[sy];
const REAL d10 = at[sx + 1] - at[sx], d11 = at[sx + sy + 1] - at[sx + sy];
const REAL v00 = at[0] + w[2] * d00, v01 = at[sy] + w[2] * d01;
const REAL v10 = at[sx] + w[2] * d10, v11 = at[sx + sy] + w[2] * d11;
const REAL v0 = v00 + w[1] * (v01 - v00), v1 = v10 + w[1] * (v11 - v10);
const REAL dz0 = d00 + w[1] * (d01 - d00), dz1 = d10 + w[1] * (d11 - d10);
REAL slope[3];
slope[0] = (v1 - v0) * inverse;
slope[1] = ((v01 - v00) + w[0] * ((v11 - v10) - (v01 - v00))) * inverse;
slope[2] = (dz0 + w[0] * (dz1 - dz0)) * inverse;
outside = sqrt(outside);
for (int a = 0; a < 3; ++a)
    ((REAL*)slopes)[3 * (long long)task + a] =
        beyond[a] != (REAL)0 ? beyond[a] / outside : slope[a];
((REAL*)values)[task] = v0 + w[0] * (v1 - v0) + outside;
