"""Scene files of photographs."""
