// The four functions of cuBLAS that minidl calls, on the host, by their definition: matrices are
// counted down columns, element (i, j) of a matrix with leading dimension ld being at i + j * ld.
#pragma once
#include <cstddef>

static int last_mode = -1;
static size_t last_workspace = 0;

template <typename T>
int product(int op_a, int op_b, int m, int n, int k, T alpha, const T* a, int ld_a,
            long long step_a, const T* b, int ld_b, long long step_b, T beta, T* c, int ld_c,
            long long step_c, int count) {
    if (ld_a < (op_a ? k : m) || ld_b < (op_b ? n : k) || ld_c < m) return 7;  // INVALID_VALUE
    for (int s = 0; s < count; s++, a += step_a, b += step_b, c += step_c)
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                T total = 0;
                for (int p = 0; p < k; p++)
                    total += (op_a ? a[p + (long long)i * ld_a] : a[i + (long long)p * ld_a]) *
                             (op_b ? b[j + (long long)p * ld_b] : b[p + (long long)j * ld_b]);
                T& place = c[i + (long long)j * ld_c];
                place = beta == 0 ? alpha * total : alpha * total + beta * place;
            }
    return 0;
}

#define PRODUCT(name, T)                                                                        \
    int name(void*, int op_a, int op_b, int m, int n, int k, const T* alpha, const T* a,        \
             int ld_a, long long step_a, const T* b, int ld_b, long long step_b, const T* beta, \
             T* c, int ld_c, long long step_c, int count) {                                     \
        return product<T>(op_a, op_b, m, n, k, *alpha, a, ld_a, step_a, b, ld_b, step_b, *beta, \
                          c, ld_c, step_c, count);                                              \
    }

extern "C" {
int cublasSetStream_v2(void*, void*) { return last_workspace = 0; }
int cublasSetMathMode(void*, int mode) { return last_mode = mode, 0; }
int cublasSetWorkspace_v2(void*, void*, size_t bytes) { return last_workspace = bytes, 0; }
int mode_set_last() { return last_mode; }
size_t workspace_set_last() { return last_workspace; }
PRODUCT(cublasSgemmStridedBatched, float)
PRODUCT(cublasDgemmStridedBatched, double)
}
