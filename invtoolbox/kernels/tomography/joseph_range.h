// The lines on which a ray is inside the image, with one to spare on either side: clamped samples
// add exactly zero.
int from = 0, to = lines;
if (slope != (REAL)0) {
    const REAL p = -start / slope + middle, q = (last - start) / slope + middle;
    REAL low = (p < q ? p : q) - (REAL)1, high = (p < q ? q : p) + (REAL)2;
    low = low > (REAL)0 ? low : (REAL)0;
    low = low < (REAL)lines ? low : (REAL)lines;
    high = high > (REAL)0 ? high : (REAL)0;
    high = high < (REAL)lines ? high : (REAL)lines;
    from = (int)low;
    to = (int)high;
} else if (start <= (REAL)0 || start >= last) {
    to = 0;
}
