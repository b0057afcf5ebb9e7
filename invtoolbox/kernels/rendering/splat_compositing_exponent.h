// sigma = 1/2 (p - m)^T Q (p - m), with the mean m and the conic Q of the splat in `row`.
const auto dx = px - row[0], dy = py - row[1];
const auto sigma = (REAL)0.5 * (row[2] * dx * dx + row[4] * dy * dy) + row[3] * dx * dy;
