"""The architecture: import direction, size, documentation, top level."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .reading_path import code_lines, count, parse, traced

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minidl"
MODULES = sorted(PACKAGE.rglob("*.py"))
CHAPTERS = sorted((ROOT / "chapters").glob("*.py"))

# From the bottom up: a room (a package or top-level module) imports only from lower floors, even
# under TYPE_CHECKING.
FLOORS = [
    {"checks", "context", "files", "handover", "idioms"},
    {"backends"},
    {"autograd", "random"},
    {"tensor"},
    {"functional", "derivatives", "anomaly"},
    {"nn", "optim", "data"},
    {"distributed", "recompute"},
    {"training", "models"},
    {"inspect", "onnx"},
    {"chapter", "notebooks"},
]

# The code meant to be read. It imports none of the wings below, and trains without them.
CORE = [
    "checks",
    "context",
    "handover",
    "idioms",
    "random",
    "autograd",
    "files/whole",
    "backends/base",
    "backends/convolution",
    "backends/sums",
    "backends/windows",
    "tensor/operations",
    "tensor/storage",
    "tensor/operands",
    "tensor/functions",
    "tensor/rows",
    "functional/activation",
    "functional/channels",
    "functional/convolution",
    "functional/geometry",
    "functional/linear",
    "functional/loss",
    "functional/normalization",
    "functional/pooling/basic",
    "nn/activation",
    "nn/containers",
    "nn/convolution",
    "nn/fusion",
    "nn/init",
    "nn/linear",
    "nn/loss",
    "nn/modes",
    "nn/module",
    "nn/normalization",
    "nn/state",
    "nn/pooling/basic",
    "optim/optimizer",
    "optim/rules",
    "data/loader",
    "training/run",
    "training/evaluation",
    "training/history",
]
CORE_BUDGET = 5_000

# Each wing's limit, in lines of code, and what the wing provides. To raise one, make a separate
# commit that says which capability it adds.
WINGS = {
    "derivatives": (115, "gradients, Jacobians and Hessians as return values"),
    "backends/cpu": (
        *(1_105, "threads that help, local Winograd by processor, pixels last, sums by place"),
    ),
    "backends/blocks backends/large": (
        *(375, "large images in blocks, and pooling of windows as large as the image"),
    ),
    "backends/cuda training/capture training/replays": (
        *(1_040, "the same code on CuPy; steps replayed as CUDA graphs, in fit by itself"),
    ),
    "recompute": (245, "activations computed again in backward, to save memory"),
    "functional/embedding nn/embedding": (110, "words as vectors, with rows as gradients"),
    "functional/loss_kinds nn/loss_kinds": (
        *(265, "losses of boxes, masks and rare classes; cross-entropy of maps in one pass"),
    ),
    "tensor/edges tensor/ordering tensor/running tensor/scatter tensor/special "
    "nn/collections nn/padding": (
        *(385, "what ported programs use: order, scattered and running sums, borders, containers"),
    ),
    "functional/attention functional/cells functional/composed functional/recurrent "
    "nn/attention nn/recurrent nn/transformer": (
        *(
            860,
            "attention and transformer encoders; GRU and LSTM with kernels, and lengths by mask",
        ),
    ),
    "functional/fused": (245, "layers in one pass over memory, batch norm folded in evaluation"),
    "functional/pooling nn/pooling": (
        *(
            1_730,
            "22 kinds of pooling, of any size, in any range; over time with masks; of regions",
        ),
    ),
    "functional/deformable nn/deformable": (155, "convolution with taps at learned positions"),
    "functional/resampling nn/resampling": (215, "images at any other size, in three modes"),
    "files": (1_315, "weights in every common form, checkpoints, downloads; safe if hostile"),
    "data": (
        *(1_415, "CIFAR-10, embedded sets, scenes with masks and boxes, tables, any image file"),
    ),
    "optim/schedules models": (
        540,
        "schedules; ResNets, TextCNN, a text classifier with its words",
    ),
    "training/fit training/keeper training/progress training/fingerprint "
    "training/warnings training/metrics training/ranks": (
        *(1_240, "runs that survive crashes, resume only themselves, report problems; mask scores"),
    ),
    "training/detection": (90, "scores of a detector, as COCO defines them; checks of its boxes"),
    "inspect anomaly": (
        1_805,
        "gradcheck, graph, its interactive page, summary, first NaN; figures of nets, pooling, "
        "sentences",
    ),
    "distributed": (1_035, "many processes: checked calls over MPI, gradients, shards, no hangs"),
    "chapter notebooks": (
        600,
        "chapters as scripts and notebooks: options, figures and pages with captions, moving "
        "pictures, experiments",
    ),
    "onnx": (875, "networks as ONNX files, for other programs: 125 operations"),
}
FACES_BUDGET = 520  # __init__ and __main__: public names, and the lookup of backends

FILE_BUDGET = 400
FUNCTION_BUDGET = 40
READING_PATH_BUDGET = 1_500
TOP_LEVEL = {"minidl", "chapters", "tests", "datasets", "pyproject.toml", "README.md", "LICENSE"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _parse(path: Path) -> ast.Module:
    return parse(path.read_text(encoding="utf-8"))


# Import direction


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the dotted names of all imports; `package` resolves relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


def _key(path: Path) -> str:
    """Return a module's name as in the lists above: `nn/pooling/basic`."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def _is_face(path: Path) -> bool:
    return path.name in ("__init__.py", "__main__.py")


def _targets(path: Path) -> set[str]:
    """Return the modules of minidl that a module imports; for a package, its `__init__`."""
    found = set()
    for name in _imported(_parse(path), _package_of(path)):
        parts = name.split(".")
        if parts[0] != "minidl":
            continue
        for end in (len(parts), len(parts) - 1):  # the name may be a module, or defined in one
            target = PACKAGE.joinpath(*parts[1:end])
            if target.with_suffix(".py").is_file():
                found.add("/".join(parts[1:end]))
                break
            if (target / "__init__.py").is_file():
                found.add("/".join([*parts[1:end], "__init__"]))
                break
    return found


def _floor(key: str) -> int | None:
    room = key.split("/")[0]
    return next((level for level, rooms in enumerate(FLOORS) if room in rooms), None)


def _upward_imports(path: Path) -> list[str]:
    key = _key(path)
    level = _floor(key)
    assert level is not None, f"{key} is on no floor: add its room to FLOORS, or move it"
    wrong = []
    for target in sorted(_targets(path)):
        if target.split("/")[0] == key.split("/")[0]:
            continue
        other = _floor(target)
        if other is None or other >= level:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent != PACKAGE or not _is_face(p)], ids=lambda p: _name(p)
)
def test_imports_point_downward(path):
    assert not _upward_imports(path)


def _circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that can reach each other."""
    reach = {key: set(targets) for key, targets in arrows.items()}
    for middle in arrows:
        for key in arrows:
            if middle in reach[key]:
                reach[key] |= reach[middle]
    return [{o for o in reach[k] if k in reach.get(o, ())} for k in arrows if k in reach[k]]


def test_no_modules_import_each_other_in_a_circle():
    # Faces are left out: a face imports its own files, and files import only faces of lower floors.
    assert not _circles({_key(p): _targets(p) for p in MODULES if not _is_face(p)})
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}] * 3


def test_an_upward_import_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "minidl")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name in (
        "nn/module",
        "nn/__init__",
        "tensor/__init__",
        "optim/__init__",
        "functional/pool",
    ):
        (tmp_path / "minidl" / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "minidl" / f"{name}.py").write_text("")
    module = tmp_path / "minidl" / "functional" / "loss.py"
    module.write_text(
        "from typing import TYPE_CHECKING\n"
        "from minidl.tensor import Tensor\n"
        "from . import pool\n"
        "if TYPE_CHECKING:\n    from minidl.nn.module import Module\n"
        "def f():\n    from minidl import optim\n"
    )
    assert _upward_imports(module) == ["nn/module", "optim/__init__"]


def _wing_of(path: Path) -> str | None:
    """Return the wing that a module belongs to; None for the core and for faces."""
    key = _key(path)
    if _is_face(path) or key in CORE:
        return None
    found = [w for w in WINGS if any(key == r or key.startswith(r + "/") for r in w.split())]
    assert len(found) == 1, f"{key} is neither in the core nor in one wing: {found}"
    return found[0]


def test_the_core_imports_no_wing():
    for path in MODULES:
        if _key(path) in CORE:
            wings = {t for t in _targets(path) if not t.endswith("__init__") and t not in CORE}
            assert not wings, f"{_key(path)} imports {wings}"


def test_the_core_trains_without_the_wings(tmp_path):
    """A copy of the core only, its faces without the wings' names, trains chapter 7's network."""
    for path in MODULES:
        if not _is_face(path) and _key(path) not in CORE:
            continue
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if _is_face(path):
            lines = [line for line in lines if not _names_a_wing(line)]
        copy = tmp_path / "minidl" / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("".join(lines), encoding="utf-8")
    code = """
import sys
import minidl
from minidl import functional as F, nn, optim
assert not [name for name in sys.modules if name.startswith("minidl") and "cpu" in name]
minidl.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(),
    nn.MaxPool2d(2), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
)
adam = optim.Adam(model.parameters(), lr=3e-3)
x, y = minidl.randn(8, 3, 32, 32), minidl.arange(8).data
losses = []
for step in range(8):
    loss = F.cross_entropy(model(x), y)
    adam.zero_grad(); loss.backward(); adam.step()
    losses.append(loss.item())
print(losses[0], losses[-1], minidl.__file__)
"""
    environment = os.environ | {"MINIDL_KERNELS": "plain", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, last, file = done.stdout.split()
    assert file.startswith(str(tmp_path))
    assert float(last) < 0.5 * float(first)


def _names_a_wing(line: str) -> bool:
    """Return whether a line of a face imports a file, or a whole package, of a wing."""
    found = re.match(r"from minidl\.?([\w.]*) import (\w+)", line)
    if found is None:
        return False
    module = PACKAGE.joinpath(*found[1].split("."), found[2])
    if not module.with_suffix(".py").is_file() and not module.is_dir():
        module = PACKAGE.joinpath(*found[1].split("."))
    if module.is_dir():
        return not any(key.startswith(f"{module.relative_to(PACKAGE).as_posix()}/") for key in CORE)
    return _key(module.with_suffix(".py")) not in CORE


def test_the_cpu_and_cuda_wings_do_not_know_each_other():
    for path in MODULES:
        targets = _targets(path)
        for own, other in (("cpu", "cuda"), ("cuda", "cpu")):
            if _key(path).startswith(f"backends/{own}/"):
                assert not any(t.startswith(f"backends/{other}/") for t in targets)
        if any(t.startswith(("backends/cpu/", "backends/cuda/")) for t in targets):
            inside = _key(path).startswith(("backends/cpu/", "backends/cuda/"))
            assert inside or _is_face(path), f"{_key(path)} imports a backend's internal files"


def test_only_the_cuda_wing_imports_cupy():
    users = {
        _name(path)
        for path in MODULES + CHAPTERS
        if any(n.split(".")[0] in {"cupy", "cupyx"} for n in _imported(_parse(path), "minidl"))
    }
    assert users <= {"minidl/backends/cuda/setup.py"}


def test_nothing_imports_torch():
    for path in MODULES + CHAPTERS:
        assert not any(n.split(".")[0] == "torch" for n in _imported(_parse(path), "minidl")), path


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: _name(p))
def test_chapters_use_public_names_only(path):
    tree = _parse(path)
    allowed = set(sys.stdlib_module_names) | {"numpy", "matplotlib", "tqdm", "minidl"}
    for name in _imported(tree, ""):
        parts = name.split(".")
        assert parts[0] in allowed, f"imports {name}"
        if parts[0] == "minidl":
            assert not any(part.startswith("_") for part in parts), f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not private, f"line {node.lineno} uses {ast.unparse(node)}"
            assert ast.unparse(node) != "sys.path", f"line {node.lineno} touches sys.path"


# Size


def test_blank_lines_comments_and_docstrings_are_free():
    source = (
        '"""Doc\nof two lines."""\n\n# why\nx = (\n    1,\n)  # end\n\n\n'
        'def f():\n    """Doc."""\n    return """a\nb"""\n'
    )
    assert code_lines(source) == {5, 6, 7, 10, 12, 13}


@pytest.mark.parametrize("path", MODULES + CHAPTERS, ids=lambda p: _name(p))
def test_files_and_functions_are_small(path):
    source = path.read_text(encoding="utf-8")
    lines = code_lines(source)
    assert len(lines) <= FILE_BUDGET, f"{len(lines)} lines of code"
    for node in ast.walk(parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            own = lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            assert len(own) <= FUNCTION_BUDGET, f"{node.name}: {len(own)} lines of code"


def test_the_core_can_be_read_in_an_afternoon():
    sizes = {key: count(PACKAGE / f"{key}.py") for key in CORE}
    assert sum(sizes.values()) < CORE_BUDGET, sizes


def test_every_file_is_in_the_core_a_wing_or_a_face_and_each_keeps_its_budget():
    sizes = dict.fromkeys(WINGS, 0)
    for path in MODULES:
        wing = _wing_of(path)
        if wing is not None:
            sizes[wing] += count(path)
    over = {wing: size for wing, size in sizes.items() if size > WINGS[wing][0]}
    assert not over, over
    assert sum(count(path) for path in MODULES if _is_face(path)) <= FACES_BUDGET


def test_a_plain_training_step_is_short():
    executed = traced()
    assert len(executed) > 15
    assert "minidl/functional/pooling/basic.py" in executed
    assert not any("/cpu/" in name or "fused" in name for name in executed)
    assert sum(executed.values()) < READING_PATH_BUDGET, executed


def test_the_readme_prints_the_reading_path():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Reading path")[2].partition("\n## ")[0]
    printed = re.findall(r"^ *(\d+)/ *\d+  (minidl/\S+\.py)$", section, re.MULTILINE)
    assert [(name, int(lines)) for lines, name in printed] == list(traced().items())


# Documentation


def _undocumented(tree: ast.Module) -> Iterator[str]:
    def visit(node: ast.AST, prefix: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if child.name.startswith("_"):
                continue
            setter = any(ast.unparse(d).endswith(".setter") for d in child.decorator_list)
            overload = any(ast.unparse(d).endswith("overload") for d in child.decorator_list)
            if not ast.get_docstring(child) and not setter and not overload:
                yield prefix + child.name
            if isinstance(child, ast.ClassDef):  # functions inside functions are not public
                yield from visit(child, f"{prefix}{child.name}.")

    if not ast.get_docstring(tree):
        yield "the module itself"
    yield from visit(tree, "")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: _name(p))
def test_everything_public_has_a_docstring(path):
    assert not list(_undocumented(_parse(path)))


# Top level


def test_the_top_level_is_fixed():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not (ROOT / ".git").exists():
        pytest.skip("not in a git checkout")
    entries = {line.split("/")[0].strip('"') for line in listed.stdout.splitlines()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL
