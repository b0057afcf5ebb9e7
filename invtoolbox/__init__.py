"""invtoolbox: inverse problems and 3D reconstruction in PyTorch.

Every job here is one job: find ``x`` such that ``A(x)`` explains the measurements ``y``. See `docs/architecture.md`.
"""
