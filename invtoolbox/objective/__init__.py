"""The objective ``D(A(x), y) + R(x) + S(z)`` of a solver, and the variables of the minimization."""
