"""A picture that the difference of two scores moves."""
