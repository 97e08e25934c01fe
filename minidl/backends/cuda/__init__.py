"""CuPy on an NVIDIA GPU: the only files that import cupy, and the CUDA kernels."""
