"""What type checkers and editors know about a call; mypy and pyright check `typing/` in CI."""

import inspect
import re

from minidl import models, nn

from .typing import user_script


def test_the_user_s_script_runs(tmp_path, capsys):
    assert user_script.main(tmp_path) > 0
    assert {"net.npz", "flow.png"} <= {path.name for path in tmp_path.iterdir()}
    assert "Conv2d" in capsys.readouterr().out


def test_a_module_s_signature_is_that_of_its_forward():
    class Scaled(nn.Module):
        def forward(self, x, scale=2):
            return x * scale

    assert str(inspect.signature(Scaled())) == "(x, scale=2)"
    assert list(inspect.signature(models.TextCNN(9, 2)).parameters) == ["words"]
    assert list(inspect.signature(nn.Linear).parameters)[:2] == ["in_features", "out_features"]


HOLDERS = nn.Module, nn.ModuleDict, nn.ModuleList  # called in parts only


def test_every_layer_says_what_it_takes_and_returns():
    kinds = [kind for kind in vars(nn).values() if inspect.isclass(kind)]
    kinds = [k for k in kinds if issubclass(k, nn.Module) and k not in HOLDERS]
    kinds += [models.TextCNN, models.ResNet, models.CifarResNet, models.BasicBlock]
    assert len(kinds) > 60
    for kind in kinds:
        signature = inspect.signature(kind.forward)
        _, *arguments = signature.parameters.values()
        if kind in (nn.GRU, nn.LSTM, nn.MultiheadAttention):  # states or weights beside the output
            kinds_of_results = r"tuple\[Tensor, (Tensor|Tensor \| None|tuple\[Tensor, Tensor\])\]"
            assert re.fullmatch(kinds_of_results, signature.return_annotation), kind
        else:
            assert signature.return_annotation == "Tensor", kind
        assert arguments, kind
        assert all("Any" not in a.annotation and a.annotation for a in arguments), kind
