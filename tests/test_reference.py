"""Every operation against PyTorch's answers, which are stored in `reference/`."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F

from .reference.cases import FAMILIES, Case, load

STORED = {family: load(family) for family in FAMILIES}
CASES = [(family, case) for family, cases in FAMILIES.items() for case in cases]


def recall(family: str, case: Case) -> dict[str, np.ndarray]:
    prefix = f"{case.name}/"
    return {
        key.removeprefix(prefix): array
        for key, array in STORED[family].items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-10), (np.float32, 1e-5)], ids=str)
@pytest.mark.parametrize(("family", "case"), CASES, ids=lambda v: getattr(v, "name", ""))
def test_operation_equals_pytorch(family, case, dtype, tol, device):
    stored = recall(family, case)
    inputs = [
        Tensor(stored[f"input {i}"].astype(dtype), device=device, requires_grad=True)
        for i in range(len(case.inputs))
    ]
    constants = {name: Tensor(value, device=device) for name, value in case.constants.items()}
    target = [constants.pop("target")] if "target" in constants else []
    output = getattr(F, case.op)(*inputs, *target, **constants, **case.options)
    np.testing.assert_allclose(output.numpy(), stored["output"], rtol=tol, atol=tol)
    output.backward(Tensor(stored["upstream"].astype(dtype), device=device))
    for i, x in enumerate(inputs):
        gradient, wanted = x.grad.numpy(), stored[f"gradient {i}"]
        np.testing.assert_allclose(gradient, wanted, rtol=tol, atol=tol, err_msg=f"gradient {i}")
    assert output.dtype == inputs[0].grad.dtype == dtype


@pytest.mark.parametrize(
    "case", [c for c in FAMILIES["pooling"] if c.op == "max_pool2d"], ids=lambda c: c.name
)
def test_max_pool2d_finds_pytorch_s_places(case, device):
    stored = recall("pooling", case)
    x = Tensor(stored["input 0"], device=device)
    _, places = F.max_pool2d(x, **case.options, return_indices=True)
    assert np.array_equal(places.numpy(), stored["places"])


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_cases_are_the_listed_ones(family):
    names = [case.name for case in FAMILIES[family]]
    assert len(set(names)) == len(names)
    assert {key.rpartition("/")[0] for key in STORED[family]} == set(names)


def test_every_deterministic_function_has_a_case():
    assert {case.op for _, case in CASES} == set(F.__all__) - {"dropout"}
