"""Readers and writers of transforms between images, in the formats of ITK and ANTs."""
