"""Python imports this at its start if `python -m tests.helpers.cuda_on_cpu` has started it."""

import os
import traceback
from pathlib import Path

if "CUDA_ON_CPU" in os.environ:
    try:
        from tests.helpers import cuda_on_cpu

        cuda_on_cpu.install(Path(os.environ["CUDA_ON_CPU"]))
    except BaseException:  # Python would print it and go on, and tests would be skipped
        traceback.print_exc()
        os._exit(1)
