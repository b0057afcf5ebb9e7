// Line (h, j) of voxels: the parts of across, along and ahead (see `VoxelViews`) that the line
// shares.
const REAL row = (REAL)j - (REAL)0.5 * (REAL)(height - 1);
const REAL slice = (REAL)h - (REAL)0.5 * (REAL)(depth - 1);
const REAL a0 = view[1] * row + view[2] * slice + view[3];
const REAL b0 = view[5] * row + view[6] * slice + view[7];
const REAL d0 = view[9] * row + view[10] * slice + view[11];
