// The factored eikonal equation at one node, for eikonal_sweep.cpp and eikonal_march.cpp.
//
// The time is T = d tau, with the distance d from the source (Fomel, Luo and Zhao 2009). Along axis a
//
//     dT/da = p tau + d dtau/da = A tau - B,   p = dd/da,
//
// with the one-sided difference of tau towards the neighbour on the side where waves come from. The
// sum of the squares is s^2, with the slowness s. `A` and `B` of unused axes are 0.
//
// The macro solves for the larger root. It sets tau to -1 if there is none, or if along an axis the
// time falls towards the node (side[a] is -1 if the neighbour has the smaller index, else 1).
#define SOLVE_QUADRATIC(A, B, side, s, tau)                                             \
    {                                                                                   \
        double aa = 0.0, ab = 0.0, bb = -(s) * (s);                                     \
        for (int a = 0; a < AXES; ++a) {                                                \
            aa += A[a] * A[a];                                                          \
            ab += A[a] * B[a];                                                          \
            bb += B[a] * B[a];                                                          \
        }                                                                               \
        const double room = ab * ab - aa * bb;                                          \
        tau = aa > 0.0 && room >= 0.0 ? (ab + sqrt(room)) / aa : -1.0;                  \
        for (int a = 0; a < AXES; ++a)                                                  \
            if (side[a] != 0 && (A[a] * tau - B[a]) * side[a] > 1e-9 * (s)) tau = -1.0; \
    }
