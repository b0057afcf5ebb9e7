"""Registration of two images or volumes."""
