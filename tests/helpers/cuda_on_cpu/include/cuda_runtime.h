// CuPy looks for this file to find CUDA's headers. Its kernels need none of them here.
