"""Items of the sizes that people measure, 512 and 1024 pixels; they are slow, and run by name alone."""

from __future__ import annotations

from zoo.images import deblurring, denoising, inpainting
from zoo.items import PICTURES, PLANES, Item, Job
from zoo.scans import parallel


def large_picture(index: int) -> Item:
    """A noisy, a blurred or an incomplete picture, the first half of 512 pixels."""
    side = 512 if index < 6 else 1024
    problem = (index // 2) % 3
    if problem == 0:
        return denoising(index, "large denoising", (side, side))
    if problem == 1:
        return deblurring(index, "large deblurring", (side, side))
    return inpainting("pixels", index, "large inpainting", (side, side))


def large_scan(index: int) -> Item:
    """Parallel rays through a body of 512 pixels, or of 1024 at last."""
    side = 512 if index < 4 else 1024
    return parallel(index, "large scan", (side, side))


JOBS = {
    "large pictures": Job(
        large_picture, 12, PICTURES, "measurements, biharmonic interpolation", is_slow=True
    ),
    "large scans": Job(large_scan, 6, PLANES, "filtered back-projection", is_slow=True),
}
