"""The objective ``D(A(x), y) + R(x) + S(z)`` that a solver minimizes, and the variables it is minimized over."""
