// The first voxel (h0, j0, i0) of the block of a task, and its item.
const int across_tasks = (width + BX - 1) / BX;
const int along_tasks = (height + BY - 1) / BY;
const int deep_tasks = (depth + BZ - 1) / BZ;
const int i0 = task % across_tasks * BX;
const int j0 = task / across_tasks % along_tasks * BY;
const int h0 = task / (across_tasks * along_tasks) % deep_tasks * BZ;
const int item = task / (across_tasks * along_tasks * deep_tasks);
