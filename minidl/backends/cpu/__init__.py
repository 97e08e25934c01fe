"""What a measurement justifies on a CPU: threads, Winograd's convolution, pixel-last columns."""
