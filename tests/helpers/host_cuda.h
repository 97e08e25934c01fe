// What kernels.cu needs to be built by a host C++ compiler: a launch is loops over blocks and
// threads, one thread after the other, and an atomic addition is an addition. A launch takes its
// arguments as CUDA does, as an array of pointers to them; how many there are and how large each
// is can be asked for, so that a test notices an argument of the wrong type.
#pragma once
#include <cmath>
#include <cstddef>
#include <utility>

struct Index {
    unsigned x = 1, y = 1, z = 1;
};
static Index gridDim, blockDim, blockIdx, threadIdx;

#define __global__ static
#define __device__ static

using std::sqrt;

template <typename T>
T atomicAdd(T* place, T value) {
    T before = *place;
    *place += value;
    return before;
}

template <typename... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <typename... A>
void launch(void (*kernel)(A...), unsigned grid_x, unsigned grid_y, unsigned block,
            void** arguments) {
    gridDim = {grid_x, grid_y, 1}, blockDim = {block, 1, 1};
    for (blockIdx.y = 0; blockIdx.y < grid_y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < grid_x; blockIdx.x++)
            for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++)
                call(kernel, arguments, std::index_sequence_for<A...>{});
}

// Writes the sizes of a kernel's parameters, in bytes; returns how many there are.
template <typename... A>
int sizes(void (*)(A...), int* found) {
    int all[] = {static_cast<int>(sizeof(A))...};
    for (std::size_t i = 0; i < sizeof...(A); i++) found[i] = all[i];
    return sizeof...(A);
}
