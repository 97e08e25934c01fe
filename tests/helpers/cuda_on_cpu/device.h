// What a kernel needs to be built by a host C++ compiler. Each source that NVRTC is given is built
// with this file in front of it, and with `KERNEL(place, barriers, kernel)` after it for each kernel.
//
// A launch goes over the blocks, one after the other. In a kernel without barriers, so do the
// threads of a block. With barriers, each thread has a stack of its own and runs
// until its next barrier; then it is the next thread's turn. What works in any order on a GPU works
// in this one; what needs a barrier that is missing may work here and fail there.
#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __shared__ static
#define __constant__ static
#define __launch_bounds__(...)

// Launches --------------------------------------------------------------------------------------

enum State { RUNS, WAITS, ENDED };
struct Thread {
    ucontext_t start;
    jmp_buf place;
    uint3 index;
    State state;
    bool started;
};
static const size_t STACK = 1 << 16;  // bytes per thread of a block
static Thread* current = nullptr;
static jmp_buf scheduler;
static std::function<void()> body;

static void give_way(State state, const char* name) {
    if (!current) fprintf(stderr, "%s in a kernel built without barriers\n", name), abort();
    current->state = state;
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}
inline void __syncthreads() { give_way(WAITS, "__syncthreads"); }
inline void __syncwarp(unsigned = ~0u) { give_way(RUNS, "__syncwarp"); }

static void whole_thread() {
    body();
    current->state = ENDED;
    _longjmp(scheduler, 1);
}

static void advance(Thread& thread) {
    current = &thread, threadIdx = thread.index;
    if (!_setjmp(scheduler)) {
        if (thread.started) _longjmp(thread.place, 1);
        thread.started = true;
        setcontext(&thread.start);
    }
    current = nullptr;
}

// Each round lets every thread that does not wait run until its next barrier. `__syncthreads` ends
// when all threads of the block wait or have ended; `__syncwarp` ends with the round.
static void run_block(std::vector<Thread>& threads, char* stacks) {
    size_t i = 0;
    for (Thread& t : threads) {
        t.index = {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y),
                   unsigned(i / blockDim.x / blockDim.y)};
        t.state = RUNS, t.started = false;
        getcontext(&t.start);
        t.start.uc_stack.ss_sp = stacks + i++ * STACK, t.start.uc_stack.ss_size = STACK;
        makecontext(&t.start, whole_thread, 0);
    }
    for (size_t running = threads.size(); running;) {
        size_t waiting = 0;
        running = 0;
        for (Thread& t : threads) {
            if (t.state == RUNS) advance(t);
            running += t.state != ENDED, waiting += t.state == WAITS;
        }
        if (waiting == running)
            for (Thread& t : threads)
                if (t.state == WAITS) t.state = RUNS;
    }
}

template <bool barriers, typename Body>
void launch(Body kernel, const unsigned* sizes, char* stacks) {
    gridDim = {sizes[0], sizes[1], sizes[2]}, blockDim = {sizes[3], sizes[4], sizes[5]};
    std::vector<Thread> threads(barriers ? blockDim.x * blockDim.y * blockDim.z : 0);
    if (barriers) body = kernel;
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                if constexpr (barriers) {
                    run_block(threads, stacks);
                    continue;
                }
                for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
                    for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
                        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) kernel();
            }
}

// A launch with its arguments, which are copied: the caller's memory ends with the call.
using Launch = std::function<void(const unsigned* sizes, char* stacks)>;

template <auto kernel, bool barriers, typename... A>
Launch* with_arguments(void (*)(A...), void** from) {
    size_t i = 0;
    std::tuple<std::decay_t<A>...> values{*static_cast<std::decay_t<A>*>(from[i++])...};
    return new Launch([values](const unsigned* sizes, char* stacks) {
        launch<barriers>([&] { std::apply(kernel, values); }, sizes, stacks);
    });
}

// The entry of a kernel.
#define KERNEL(place, barriers, ...)                                                           \
    extern "C" __attribute__((visibility("default"))) Launch* launch_##place(void** from) {    \
        return with_arguments<&__VA_ARGS__, barriers>(&__VA_ARGS__, from);                     \
    }

// Functions of the device -----------------------------------------------------------------------

using std::isfinite, std::isinf, std::isnan, std::signbit, std::abs, std::pow, std::sqrt;
using std::exp, std::exp2, std::expm1, std::log, std::log2, std::log10, std::log1p, std::cbrt;
using std::sin, std::cos, std::tan, std::asin, std::acos, std::atan, std::atan2, std::hypot;
using std::sinh, std::cosh, std::tanh, std::asinh, std::acosh, std::atanh, std::erf, std::erfc;
using std::floor, std::ceil, std::trunc, std::rint, std::round, std::fmod, std::fmin, std::fmax;
using std::frexp, std::ldexp, std::modf, std::nextafter, std::copysign, std::tgamma, std::lgamma;

template <typename A, typename B>
using Both = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                              std::common_type_t<A, B>>;
#define EXTREME(name)                                                                       \
    template <typename A, typename B>                                                       \
    Both<A, B> name(A a, B b) {                                                             \
        if constexpr (std::is_floating_point_v<Both<A, B>>) return std::f##name(a, b);      \
        return std::name<Both<A, B>>(a, b);                                                 \
    }
EXTREME(min)
EXTREME(max)
inline float rsqrt(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
#define SAME_BITS(name, From, To) \
    inline To name(From x) {      \
        To y;                     \
        memcpy(&y, &x, sizeof y); \
        return y;                 \
    }
SAME_BITS(__float_as_int, float, int)
SAME_BITS(__int_as_float, int, float)
SAME_BITS(__double_as_longlong, double, long long)
SAME_BITS(__longlong_as_double, long long, double)
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }

#define ATOMIC(name, result)                                                                \
    template <typename T>                                                                   \
    std::enable_if_t<std::is_arithmetic_v<T>, T> atomic##name(T* place, T x) {              \
        return std::exchange(*place, T(result));                                            \
    }
ATOMIC(Exch, x)
ATOMIC(Add, *place + x)
ATOMIC(Max, std::max(*place, x))
ATOMIC(Min, std::min(*place, x))
template <typename T>
T atomicCAS(T* place, T expected, T value) {
    return *place == expected ? std::exchange(*place, value) : *place;
}
