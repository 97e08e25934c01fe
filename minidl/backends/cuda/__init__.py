"""CuPy on an NVIDIA GPU: the only files that import cupy, and the CUDA kernels.

Nothing has been timed on a GPU so far: this code was tested with its kernels built for the CPU, and
on a guarded device that refuses what CuPy refuses (tests/README.md lists what ran and what did
not). Chapter 12 measures CPU against GPU.

Install with `pip install -e '.[cuda13]'`, or `'.[cuda12]'` for an older driver. `python -m minidl`
prints what it finds and, if the driver, CuPy or the GPU is missing or does not fit, how to fix it.
In your own code, `model.to("cuda")` and `DataLoader(..., device="cuda")` are all that changes.

Formulas run on CuPy's arrays. Windows, poolings, repeated indices and the optimisers' steps are
CUDA kernels (`kernels.cu`); matrix products are cuBLAS's.

* In a training step, the host waits for nothing until a result is read. So a label or index out of
  range is reported when the loss is next read, not where it was used.
* `step = minidl.capture(step)` records a step that takes its batch as arguments and returns the
  loss, and replays it as one CUDA graph whenever shapes repeat. On the CPU it changes nothing.
* `DataLoader(..., prefetch=2)` prepares and transfers batches in a thread, from pinned memory.
* TF32 is off; `minidl.set_tf32(True)` allows it for all products. There is no half precision.
* Every run gives the same bits, except for sums over repeated indices (embeddings). With
  `minidl.set_deterministic(True)` these do too, at the cost of a sort and a wait in each step.
"""
