"""The iteration loop, its checkpoints, and differentiation through its result."""
