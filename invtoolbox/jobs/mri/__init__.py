"""MRI: images of the k-space that a scanner measured."""
