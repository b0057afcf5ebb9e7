"""Files of meshes, Gaussians and voxels."""
