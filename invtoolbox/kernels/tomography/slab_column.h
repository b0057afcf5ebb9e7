// Column c of cells of the view with table row T (see rays.py): the point `middle` of the column
// halfway up the panel, and the position rp0 of row r_first, counted from there. The operations are
// those of volume_ray.h.
const double cp = (double)c - 0.5 * (double)(columns - 1);
const double sine = CURVED ? sin(cp * T[12]) : 0.0, cosine = CURVED ? cos(cp * T[12]) : 1.0;
double middle[3];
for (int k = 0; k < 3; ++k)
    middle[k] = CURVED ? fma(sine, T[6 + k], T[3 + k] * cosine) : fma(cp, T[6 + k], T[3 + k]);
const double rp0 = (double)r_first - 0.5 * (double)(rows - 1);
