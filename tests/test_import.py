"""The modules that `import minidl` loads, and what works without optional packages."""

import os
import pickle
import subprocess
import sys

import pytest

import minidl

# Large or slow to import, or missing on some systems; no network needs them.
ON_USE = {
    *("PIL", "asyncio", "concurrent.futures", "csv", "cupy", "email", "http.client"),
    *(
        "logging",
        "lzma",
        "matplotlib",
        "mmap",
        "multiprocessing",
        "numpy.polynomial",
        "numpy.random",
        "pickletools",
    ),
    *("socket", "ssl", "tarfile", "threadpoolctl", "tqdm", "unittest", "urllib.request", "zipfile"),
}


def script(code, **environment):
    """Run code in a new process; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MPLBACKEND": "agg"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code):
    return set(script(f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')").split())


def test_importing_minidl_loads_nothing_that_only_some_uses_need():
    extra = loaded("import minidl") - loaded("import numpy")
    assert not sorted(extra & ON_USE)
    assert not any(
        name.startswith(("minidl.data", "minidl.inspect", "minidl.files")) for name in extra
    )
    assert len([name for name in extra if not name.startswith(("minidl", "numpy"))]) < 60


def test_importing_every_package_of_minidl_loads_no_slow_package():
    extra = loaded("from minidl import data, files, inspect, models, training")
    slow = {"PIL", "http.client", "matplotlib", "ssl", "tarfile", "tqdm", "urllib.request"}
    assert not sorted(extra & slow)


AFRESH = """
import sys
for name in ("data", "inspect", "models", "training", "capture", "gradcheck"):
    for code in (f"import minidl; minidl.{name}", f"from minidl import {name}"):
        for module in [m for m in sys.modules if m.partition(".")[0] == "minidl"]:
            del sys.modules[module]
        exec(code, {})
"""


def test_packages_that_are_imported_on_use_look_like_the_others():
    names = script("import minidl; print(*dir(minidl))").split()
    assert {"data", "inspect", "models", "training", "gradcheck", "capture", "nn"} <= set(names)
    assert minidl.gradcheck is minidl.inspect.gradcheck
    assert minidl.capture is minidl.training.capture.capture
    script(AFRESH)
    assert pickle.loads(pickle.dumps(minidl.gradcheck)) is minidl.gradcheck


HIDE = "import sys\nfor name in {names!r}:\n    sys.modules[name] = None\n"

TRAIN = """
from minidl import data, inspect, models, nn, optim, training
train, _ = data.load_toy10()
train = train.first(64)
model = models.cifar10_cnn()
normalize = data.Normalize.fit(train.images)
batches = data.DataLoader(train.images, train.labels, batch_size=32, transform=normalize)
training.fit(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), batches, epochs=1)
print(inspect.summary(model, (3, 32, 32)))
"""


def test_training_needs_neither_matplotlib_nor_pillow_nor_a_network():
    hidden = ["matplotlib", "PIL", "ssl", "_ssl", "lzma", "_lzma"]
    assert "epoch 1: loss" in script(HIDE.format(names=hidden) + TRAIN)


def test_training_needs_no_ctypes():
    """Python is built without it where libffi is missing; BLAS then keeps its threads."""
    assert "epoch 1: loss" in script(HIDE.format(names=["ctypes", "_ctypes"]) + TRAIN)


def test_a_misspelt_backend_of_matplotlib_does_not_stop_training():
    assert "epoch 1: loss" in script(TRAIN, MPLBACKEND="aggg")


DRAW = """
import warnings
from minidl.inspect import plots
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    plots.training_curves({"train_loss": [2.0, 1.0]})
print(*[c.message for c in caught])
"""


@pytest.mark.parametrize("backend", ["aggg", "module://nowhere"])
def test_a_misspelt_backend_of_matplotlib_still_draws_into_files(backend):
    assert f"MPLBACKEND={backend}: " in script(DRAW, MPLBACKEND=backend)
    after = f"import os\nassert os.environ['MPLBACKEND'] == {backend!r}"
    script(DRAW + after, MPLBACKEND=backend)
    assert script(DRAW, MPLBACKEND="svg").strip() == ""


def test_in_a_notebook_matplotlib_finds_its_backend_while_it_is_imported():
    """Otherwise matplotlib-inline is never set up, and figures appear as text, at the end."""
    code = """
import os, sys, types
sys.modules["ipykernel"] = types.ModuleType("ipykernel")  # as in a notebook's kernel
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "matplotlib":
            print("found", os.environ.get("MPLBACKEND"))
sys.meta_path.insert(0, Watch())
from minidl.inspect import plots
plots.pyplot()
"""
    assert script(code, MPLBACKEND="svg").strip() == "found svg"


def test_a_plot_without_matplotlib_says_what_to_install():
    wrong = "import pytest\n" + HIDE.format(names=["matplotlib"])
    for call in ("plots.pyplot()", "plots.training_curves({})", "graph(minidl.ones(1)).draw()"):
        asked = f"with pytest.raises(ImportError, match='python -m pip install matplotlib'): {call}"
        script(f"{wrong}import minidl\nfrom minidl.inspect import graph, plots\n{asked}")


def test_reading_images_without_pillow_says_what_to_install(tmp_path):
    asked = "with pytest.raises(ImportError, match='python -m pip install pillow'):"
    read = f"    data.load_image_folder({str(tmp_path)!r})"
    script(f"import pytest\n{HIDE.format(names=['PIL'])}from minidl import data\n{asked}\n{read}")
