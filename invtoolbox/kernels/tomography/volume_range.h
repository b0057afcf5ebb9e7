// The planes on which the ray is inside the volume, with one to spare on either side: samples
// outside add nothing.
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
