"""Shapes that bend: handles, bones, and meshes that move."""
