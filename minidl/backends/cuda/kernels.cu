// CUDA kernels for what CuPy's own functions do badly: windows, pooling, repeated indices, updates.
//
// The backend compiles this file with NVRTC; tests compile it with a host C++ compiler and check it
// against literal loops (tests/host_cuda.h defines a launch there). So it includes nothing and uses
// no GPU feature except threads and one atomic addition.
//
// Every kernel except `index_add` *gathers*: one thread computes one element of the result from all
// its terms, always in the same order. No two threads add to the same element, so results are the
// same from run to run.
//
// Conventions: images have shape (n, c, h, w) and are passed with their four strides, in elements,
// so that any memory order is read in place. Results are channels-last (c fastest) or rows first (w
// fastest). Window geometry is that of windows.py: tap (i, j) of output pixel (y, x) is at row
// y * stride_h + i * dilation_h - top and column x * stride_w + j * dilation_w - left of the image.

typedef long long size;  // counts of elements, which can exceed 2^31

#define WINDOWS                                                                             \
    int in_h, int in_w, int k_h, int k_w, int stride_h, int stride_w, int dilation_h,       \
        int dilation_w, int top, int left, int out_h, int out_w

#define STRIDES(name) size name##_n, size name##_c, size name##_h, size name##_w

#define AT(name, n, c, y, x) \
    name[(n) * name##_n + (c) * name##_c + (y) * name##_h + (x) * name##_w]

// A grid-stride loop: any number of threads covers any number of elements.
#define EACH(i, count)                                                      \
    for (size i = blockIdx.x * (size)blockDim.x + threadIdx.x; i < (count); \
         i += (size)gridDim.x * blockDim.x)

struct Pixel {
    size n;
    int c, y, x;
};

// The pixel that element i in memory belongs to.
__device__ inline Pixel pixel_of(size i, int c, int h, int w, int channels_last) {
    Pixel p;
    if (channels_last) {
        p.c = i % c, i /= c;
        p.x = i % w, i /= w;
        p.y = i % h, p.n = i / h;
    } else {
        p.x = i % w, i /= w;
        p.y = i % h, i /= h;
        p.c = i % c, p.n = i / c;
    }
    return p;
}

// The output row (or column) that sees pixel `place` through tap i, or -1 if there is none: the y
// with y * stride + i * dilation - before = place.
__device__ inline int seen_by(int place, int i, int stride, int dilation, int before, int out) {
    int distance = place + before - i * dilation;
    if (distance < 0) return -1;
    int y = stride == 1 ? distance : distance / stride;  // divisions are slow
    return y < out && y * stride == distance ? y : -1;
}

__device__ inline bool inside(int y, int x, int h, int w) {
    return 0 <= y && y < h && 0 <= x && x < w;
}

// Windows --------------------------------------------------------------------------------------

// out[n, y, x, tap, c] = images[n, c, y * stride_h + i * dilation_h - top, ...], 0 in the padding,
// with tap = i * k_w + j. A thread copies all taps of one window and one channel: divisions are
// slow, and finding the window takes six. `count` is the number of windows times c.
template <typename T>
__global__ void gather_windows(T* out, size count, const T* images, STRIDES(images), int c,
                               WINDOWS) {
    EACH(element, count) {
        Pixel p = pixel_of(element, c, out_h, out_w, 1);
        T* place = out + (element - p.c) * (k_h * k_w) + p.c;
        for (int i = 0; i < k_h; i++)
            for (int j = 0; j < k_w; j++, place += c) {
                int row = p.y * stride_h + i * dilation_h - top;
                int column = p.x * stride_w + j * dilation_w - left;
                *place = inside(row, column, in_h, in_w) ? AT(images, p.n, p.c, row, column) : T(0);
            }
    }
}

// The transpose of the above: images[n, c, row, column] = sum of gathered[n, y, x, tap, c] over the
// taps (i, j) through which a window sees the pixel, in the order of the taps.
template <typename T>
__global__ void scatter_windows(T* images, size count, const T* gathered, int c, WINDOWS) {
    EACH(element, count) {
        Pixel p = pixel_of(element, c, in_h, in_w, 1);
        T total = 0;
        for (int i = 0; i < k_h; i++) {
            int y = seen_by(p.y, i, stride_h, dilation_h, top, out_h);
            if (y < 0) continue;
            for (int j = 0; j < k_w; j++) {
                int x = seen_by(p.x, j, stride_w, dilation_w, left, out_w);
                if (x < 0) continue;
                size window = (p.n * out_h + y) * out_w + x;
                total += gathered[(window * (k_h * k_w) + i * k_w + j) * c + p.c];
            }
        }
        images[element] = total;
    }
}

// Pooling by sums ------------------------------------------------------------------------------

// out[n, c, y, x] = sum over the taps inside the image of images[n, c, row, column].
template <typename T>
__global__ void sum_windows(T* out, size count, int channels_last, const T* images,
                            STRIDES(images), int c, WINDOWS) {
    EACH(element, count) {
        Pixel p = pixel_of(element, c, out_h, out_w, channels_last);
        T total = 0;
        for (int i = 0; i < k_h; i++)
            for (int j = 0; j < k_w; j++) {
                int row = p.y * stride_h + i * dilation_h - top;
                int column = p.x * stride_w + j * dilation_w - left;
                if (inside(row, column, in_h, in_w)) total += AT(images, p.n, p.c, row, column);
            }
        out[element] = total;
    }
}

// The transpose: images[n, c, row, column] = sum of values[n, c, y, x] over the taps through which
// window (y, x) sees the pixel.
template <typename T>
__global__ void spread_windows(T* images, size count, int channels_last, const T* values,
                               STRIDES(values), int c, WINDOWS) {
    EACH(element, count) {
        Pixel p = pixel_of(element, c, in_h, in_w, channels_last);
        T total = 0;
        for (int i = 0; i < k_h; i++) {
            int y = seen_by(p.y, i, stride_h, dilation_h, top, out_h);
            if (y < 0) continue;
            for (int j = 0; j < k_w; j++) {
                int x = seen_by(p.x, j, stride_w, dilation_w, left, out_w);
                if (x >= 0) total += AT(values, p.n, p.c, y, x);
            }
        }
        images[element] = total;
    }
}

// Pooling by winners ---------------------------------------------------------------------------

// The first tap that is not before the image, first + i * dilation >= 0: ceil(-first / dilation).
__device__ inline int first_tap(int first, int dilation) {
    return first < 0 ? (-first + dilation - 1) / dilation : 0;
}

// best[n, c, y, x] = max over the taps of the window, with padding -inf; winners is the tap that
// holds it. The first of equal values wins, NaN beats every number, and the last NaN wins; if no
// value is larger than -inf, the first tap inside the image wins.
template <typename T, typename W>
__global__ void max_windows(T* best, W* winners, size count, int channels_last, const T* images,
                            STRIDES(images), int c, WINDOWS) {
    EACH(element, count) {
        Pixel p = pixel_of(element, c, out_h, out_w, channels_last);
        int first_row = p.y * stride_h - top, first_column = p.x * stride_w - left;
        T largest = -T(1) / T(0);  // -inf
        int winner = first_tap(first_row, dilation_h) * k_w + first_tap(first_column, dilation_w);
        for (int i = 0; i < k_h; i++)
            for (int j = 0; j < k_w; j++) {
                int row = first_row + i * dilation_h, column = first_column + j * dilation_w;
                if (!inside(row, column, in_h, in_w)) continue;
                T value = AT(images, p.n, p.c, row, column);
                if (value > largest || value != value) largest = value, winner = i * k_w + j;
            }
        best[element] = largest;
        winners[element] = winner;
    }
}

// images[n, c, row, column] = sum of values[n, c, y, x] over the windows that the pixel won: those
// that see it through the tap winners[n, c, y, x].
template <typename T, typename W>
__global__ void scatter_winners(T* images, size count, int channels_last, const T* values,
                                STRIDES(values), const W* winners, STRIDES(winners), int c,
                                WINDOWS) {
    EACH(element, count) {
        Pixel p = pixel_of(element, c, in_h, in_w, channels_last);
        T total = 0;
        for (int i = 0; i < k_h; i++) {
            int y = seen_by(p.y, i, stride_h, dilation_h, top, out_h);
            if (y < 0) continue;
            for (int j = 0; j < k_w; j++) {
                int x = seen_by(p.x, j, stride_w, dilation_w, left, out_w);
                if (x >= 0 && AT(winners, p.n, p.c, y, x) == W(i * k_w + j))
                    total += AT(values, p.n, p.c, y, x);
            }
        }
        images[element] = total;
    }
}

// The transpose: values[n, c, y, x] = images at the tap winners[n, c, y, x], 0 in the padding.
template <typename T, typename W>
__global__ void gather_winners(T* values, size count, int channels_last, const T* images,
                               STRIDES(images), const W* winners, STRIDES(winners), int c,
                               WINDOWS) {
    EACH(element, count) {
        Pixel p = pixel_of(element, c, out_h, out_w, channels_last);
        int tap = AT(winners, p.n, p.c, p.y, p.x);
        int row = p.y * stride_h + tap / k_w * dilation_h - top;
        int column = p.x * stride_w + tap % k_w * dilation_w - left;
        bool is_pixel = tap < k_h * k_w && inside(row, column, in_h, in_w);
        values[element] = is_pixel ? AT(images, p.n, p.c, row, column) : T(0);
    }
}

// Elements and rows ----------------------------------------------------------------------------

// out[i] = values[i] where x[i] > 0, else 0 (also where x is NaN, whatever values holds).
template <typename T>
__global__ void gated(T* out, size count, const T* values, const T* x) {
    EACH(i, count) out[i] = x[i] > T(0) ? values[i] : T(0);
}

// images[i, k] += bias[k] for each pixel i of channels-last images, if `add`; then ReLU, if `relu`.
// NaN stays NaN.
template <typename T>
__global__ void bias_relu(T* images, size count, const T* bias, int c, int add, int relu) {
    EACH(i, count) {
        T value = images[i];
        if (add) value += bias[i % c];
        images[i] = relu && value <= T(0) ? T(0) : value;
    }
}

// Out-of-range row numbers wrap around, as in CuPy.
__device__ inline size wrapped(size row, size length) {
    row %= length;
    return row < 0 ? row + length : row;
}

// target[rows[k], i] += values[k, i], for a target of `length` rows of `width` elements. Equal rows
// are added in no fixed order: float sums differ in their last bits from run to run.
template <typename T>
__global__ void index_add(T* target, size length, size width, const size* rows, const T* values,
                          size count) {
    EACH(i, count) atomicAdd(target + wrapped(rows[i / width], length) * width + i % width,
                             values[i]);
}

// The same in a fixed order: `order` lists the indices k by ascending row, and by k among equal
// rows; `rows` is in that order too. The thread of a row's first index adds all of them, in double:
// in float, a sum of 300,000 terms would lose four digits.
template <typename T>
__global__ void index_add_in_order(T* target, size width, const size* rows, const size* order,
                                   const T* values, size places, size count) {
    EACH(i, count) {
        size first = i / width, column = i % width;
        if (first > 0 && rows[first] == rows[first - 1]) continue;
        double total = target[rows[first] * width + column];
        for (size k = first; k < places && rows[k] == rows[first]; k++)
            total += values[order[k] * width + column];
        target[rows[first] * width + column] = (T)total;
    }
}

// One step of an optimiser over all parameters -------------------------------------------------

// blockIdx.y is the index of the parameter. Row blockIdx.y of the table holds the addresses of the
// parameter, its gradient and three arrays that the rule keeps; their number of elements; and up to
// ten numbers (the bits of doubles): those of `Optimizer.numbers`. Formulas: see optim/rules.py.
typedef unsigned long long word;
#define ROW 16

#define UPDATE(name) \
    template <typename T> \
    __global__ void name(const word* table) { \
        const word* row = table + (size)blockIdx.y * ROW; \
        T* params = (T*)row[0]; \
        const T* gradients = (const T*)row[1]; \
        T *first = (T*)row[2], *second = (T*)row[3], *third = (T*)row[4]; \
        size count = row[5]; \
        const double* number = (const double*)(row + 6); \
        EACH(i, count) name##_element(params[i], gradients[i], first + i, second + i, third + i, \
                                      number); \
    }

// g = g + weight_decay * p; v = momentum * v + (1 - dampening) * g; p -= lr * v, or, if nesterov,
// p -= lr * (g + momentum * v). Numbers: lr, momentum, 1 - dampening, weight_decay, nesterov.
template <typename T>
__device__ inline void sgd_element(T& p, T g, T* velocity, T*, T*, const double* number) {
    T lr = number[0], momentum = number[1], weight_decay = number[3];
    if (weight_decay != T(0)) g += weight_decay * p;
    if (momentum == T(0)) {
        p -= lr * g;
        return;
    }
    T v = momentum * *velocity + T(number[2]) * g;
    *velocity = v;
    if (number[4] != 0) {
        p -= lr * g;
        p -= T(number[0] * number[1]) * v;
    } else {
        p -= lr * v;
    }
}
UPDATE(sgd)

// m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g^2; p -= step * m / (sqrt(v) / root + eps)
// with step = lr / (1 - b1^t) and root = sqrt(1 - b2^t). Decay comes first, as
// g += weight_decay * p or p *= shrink. With amsgrad, the largest v so far is in place of v.
// Numbers: step, b1, 1 - b1, b2, 1 - b2, root, eps, weight_decay, shrink, amsgrad.
template <typename T>
__device__ inline void adam_element(T& p, T g, T* mean, T* square, T* largest,
                                    const double* number) {
    T weight_decay = number[7];
    p *= T(number[8]);
    if (weight_decay != T(0)) g += weight_decay * p;
    T m = T(number[1]) * *mean + T(number[2]) * g;
    T v = T(number[3]) * *square + T(number[4]) * (g * g);
    *mean = m;
    *square = v;
    if (number[9] != 0) {
        v = v > *largest || v != v ? v : *largest;  // NaN stays, as in NumPy's maximum
        *largest = v;
    }
    p -= T(number[0]) * (m / (sqrt(v) / T(number[5]) + T(number[6])));
}
UPDATE(adam)

// g += weight_decay * p; v = alpha * v + (1 - alpha) * g^2; m = alpha * m + (1 - alpha) * g;
// d = g / (sqrt(v) + eps), or, if centered, g / (sqrt(max(v - m^2, 0)) + eps);
// b = momentum * b + d; p -= lr * b. Numbers: lr, alpha, 1 - alpha, eps, weight_decay, momentum,
// centered.
template <typename T>
__device__ inline void rmsprop_element(T& p, T g, T* square, T* mean, T* velocity,
                                       const double* number) {
    T alpha = number[1], weight_decay = number[4], momentum = number[5];
    if (weight_decay != T(0)) g += weight_decay * p;
    T v = alpha * *square + T(number[2]) * (g * g);
    *square = v;
    if (number[6] != 0) {
        T m = alpha * *mean + T(number[2]) * g;
        *mean = m;
        v -= m * m;
        v = v > T(0) ? v : T(0);
    }
    T direction = g / (sqrt(v) + T(number[3]));
    if (momentum != T(0)) {
        direction += momentum * *velocity;
        *velocity = direction;
    }
    p -= T(number[0]) * direction;
}
UPDATE(rmsprop)
