"""CPU kernels that a measurement justifies: threads, Winograd convolution, pixel-last columns."""
