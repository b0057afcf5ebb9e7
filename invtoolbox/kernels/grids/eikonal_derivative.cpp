// Arguments: DerivativeArguments of eikonal.py.
//
// Propagate changes of tau from node to node, of one shot of one item, in place: in the order of the
// times for the derivative, dtau_k = change_k + sum w_kj dtau_j, and against it for the adjoint.
const long long base = (long long)task * nodes;
const int size[3] = {n0, n1, n2};
const int* rank = (const int*)order + base;
REAL* value = (REAL*)change + base;
long long stride[AXES];
stride[AXES - 1] = 1;
for (int a = AXES - 1; a > 0; --a)
    stride[a - 1] = stride[a] * size[a];

for (int count = 0; count < nodes; ++count) {
    const long long k = rank[ADJOINT ? nodes - 1 - count : count];
    double sum = value[k];
    for (int a = 0; a < AXES; ++a) {
        const long long entry = AXES * (base + k) + a;
        const int side = ((const int*)sides)[entry];
        if (side == 0) continue;
        const long long one = k + side * stride[a], two = one + side * stride[a];
        const double w1 = ((const REAL*)near)[entry], w2 = ((const REAL*)far)[entry];
#if ADJOINT
        value[one] += w1 * sum;
        if (w2 != 0.0) value[two] += w2 * sum;
#else
        sum += w1 * value[one];
        if (w2 != 0.0) sum += w2 * value[two];
#endif
    }
#if !ADJOINT
    value[k] = sum;
#endif
}
