// The columns x0 to x1 and the rows y0 to y1 of tiles that the box `b` of pixels touches.
const int x0 = b[0] / TILE, x1 = (b[1] - 1) / TILE;
const int y0 = b[2] / TILE, y1 = (b[3] - 1) / TILE;
