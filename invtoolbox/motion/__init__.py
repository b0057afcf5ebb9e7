"""Motion in lidar sweeps: scene flow of pairs and of sequences."""
