// cuBLAS's products of matrices and Thrust's sorts, as work that is put into streams.

struct Blas {
    void* stream = nullptr;
    int math = 0;
};

enum Type { FLOAT, DOUBLE };  // as in cudaDataType

struct Stack {  // of matrices
    const void* data;
    int ld;
    long long step;                     // to the next matrix
    const void* const* all = nullptr;  // or pointers to all matrices
    template <typename T>
    T* at(int s) const {
        return all ? (T*)all[s] : (T*)data + s * step;
    }
};

// The host's own products, which NumPy brings along: SGEMM and DGEMM are their names.
#define GEMM(name, T)                                                                          \
    extern "C" void name(int, int, int, int64_t, int64_t, int64_t, T, const T*, int64_t,       \
                         const T*, int64_t, T, T*, int64_t);
GEMM(SGEMM, float)
GEMM(DGEMM, double)

template <typename T>
int products(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, Stack a,
             Stack b, const void* beta, Stack c, int count) {
    Guard guard(lock);
    if (m < 0 || n < 0 || k < 0 || a.ld < (op_a ? k : m) || b.ld < (op_b ? n : k) || c.ld < m)
        return 7;  // CUBLAS_STATUS_INVALID_VALUE
    T first = *(const T*)alpha, second = *(const T*)beta;  // of the host: read now
    auto gemm = [](auto... x) {
        if constexpr (std::is_same_v<T, float>) SGEMM(x...); else DGEMM(x...);
    };
    return put(at(static_cast<Blas*>(handle)->stream), [=] {
        for (int s = 0; s < count; s++)  // 102: by columns; 111: as it is; 112: transposed
            gemm(102, 111 + !!op_a, 111 + !!op_b, m, n, k, first, a.at<const T>(s), a.ld,
                 b.at<const T>(s), b.ld, second, c.at<T>(s), c.ld);
    }) ? 14 : 0;  // CUBLAS_STATUS_INTERNAL_ERROR
}

extern "C" {
int cublasGemmStridedBatchedEx(void* h, int op_a, int op_b, int m, int n, int k, const void* x,
                               const void* a, int type_a, int ld_a, long long step_a,
                               const void* b, int type_b, int ld_b, long long step_b,
                               const void* y, void* c, int type_c, int ld_c, long long step_c,
                               int count, int, int) {
    if (type_a != type_b || type_a != type_c || type_a > DOUBLE)
        return missing("cublasGemmStridedBatchedEx on other numbers than float and double"), 15;
    return (type_a == FLOAT ? products<float> : products<double>)(
        h, op_a, op_b, m, n, k, x, {a, ld_a, step_a}, {b, ld_b, step_b}, y, {c, ld_c, step_c}, count);
}
int cublasGemmEx(void* h, int op_a, int op_b, int m, int n, int k, const void* x, const void* a,
                 int type_a, int ld_a, const void* b, int type_b, int ld_b, const void* y, void* c,
                 int type_c, int ld_c, int kind, int how) {
    return cublasGemmStridedBatchedEx(h, op_a, op_b, m, n, k, x, a, type_a, ld_a, 0, b, type_b,
                                      ld_b, 0, y, c, type_c, ld_c, 0, 1, kind, how);
}

#define PRODUCTS(letter, T)                                                                    \
    int cublas##letter##gemmStridedBatched(                                                    \
        void* h, int op_a, int op_b, int m, int n, int k, const T* x, const T* a, int ld_a,    \
        long long step_a, const T* b, int ld_b, long long step_b, const T* y, T* c, int ld_c,  \
        long long step_c, int count) {                                                         \
        return products<T>(h, op_a, op_b, m, n, k, x, {a, ld_a, step_a}, {b, ld_b, step_b}, y, \
                           {c, ld_c, step_c}, count);                                          \
    }                                                                                          \
    int cublas##letter##gemmBatched(void* h, int op_a, int op_b, int m, int n, int k,          \
                                    const T* x, const void* const* a, int ld_a,                \
                                    const void* const* b, int ld_b, const T* y,                \
                                    const void* const* c, int ld_c, int count) {               \
        return products<T>(h, op_a, op_b, m, n, k, x, {nullptr, ld_a, 0, a},                   \
                           {nullptr, ld_b, 0, b}, y, {nullptr, ld_c, 0, c}, count);            \
    }
PRODUCTS(S, float)
PRODUCTS(D, double)

int cublasCreate_v2(void** handle) { return *handle = new Blas, 0; }
int cublasDestroy_v2(void* handle) { return delete static_cast<Blas*>(handle), 0; }
int cublasSetStream_v2(void* h, void* stream) { return static_cast<Blas*>(h)->stream = stream, 0; }
int cublasSetMathMode(void* h, int mode) { return static_cast<Blas*>(h)->math = mode, 0; }
int cublasGetMathMode(void* h, int* mode) { return *mode = static_cast<Blas*>(h)->math, 0; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
}

// Thrust: CuPy's functions of these names are replaced, so they are mangled as C++ mangles them ---

template <typename T>
bool less(T a, T b) {
    return a < b || (b != b && a == a);  // NaN last
}

using Shape = std::vector<ptrdiff_t>;

template <typename T>
void sort_rows(T* data, size_t* indices, const Shape& shape) {
    size_t row = shape.back(), count = std::accumulate(shape.begin(), shape.end() - 1, size_t(1),
                                                       std::multiplies<size_t>());
    for (size_t r = 0; r < count; r++, data += row) {
        if (!indices) {
            std::stable_sort(data, data + row, less<T>);
            continue;
        }
        size_t* order = indices + r * row;
        std::iota(order, order + row, size_t(0));
        std::stable_sort(order, order + row, [&](size_t i, size_t j) { return less(data[i], data[j]); });
    }
}

static void sort_by_type(int type, void* data, size_t* indices, const Shape& shape, void* stream) {
    Guard guard(lock);
    put(at(stream), [=] {
        switch (type) {
        case 4: return sort_rows((int32_t*)data, indices, shape);
        case 6: return sort_rows((int64_t*)data, indices, shape);
        case 7: return sort_rows((uint64_t*)data, indices, shape);
        case 9: return sort_rows((float*)data, indices, shape);
        case 10: return sort_rows((double*)data, indices, shape);
        default: missing("a sort of this type"), abort();
        }
    });
}

void thrust_sort(int type, void* data, size_t*, const Shape& shape, long stream, void*) {
    sort_by_type(type, data, nullptr, shape, (void*)stream);
}
void thrust_argsort(int type, size_t* indices, void* data, void*, const Shape& shape, long stream,
                    void*) {
    sort_by_type(type, data, indices, shape, (void*)stream);
}
void thrust_lexsort(int, size_t*, void*, size_t, size_t, long, void*) {
    missing("thrust_lexsort"), abort();
}
