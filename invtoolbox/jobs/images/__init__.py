"""Scene files of images, sinograms and volumes."""
