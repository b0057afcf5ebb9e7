// The coordinates of a ray on padded lines. Every kernel uses these very expressions, so that the
// weights of the adjoint are those of the forward projection to the last bit.
const REAL shift = (REAL)0.5 * (REAL)(across - 1) + (REAL)2;
const REAL middle = (REAL)0.5 * (REAL)(lines - 1);
const REAL last = (REAL)(across + 2);
