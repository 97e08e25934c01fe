"""Python imports this at its start if `python -m tests.helpers.cuda_on_cpu` has started it."""

import os
from pathlib import Path

if "CUDA_ON_CPU" in os.environ:
    from tests.helpers import cuda_on_cpu

    cuda_on_cpu.install(Path(os.environ["CUDA_ON_CPU"]))
