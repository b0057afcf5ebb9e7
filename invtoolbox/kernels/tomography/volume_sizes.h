// Numbers of voxels and steps in memory along x, y, z.
const int n[3] = {width, height, depth};
const long long step[3] = {1, width, (long long)width * height};
const long long voxels = (long long)width * height * depth;
const long long cells = (long long)rows * columns;
