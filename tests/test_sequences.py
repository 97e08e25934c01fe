"""Attention, recurrent layers and pooling over time: against loops, and against PyTorch."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl import functional as F


def pair(*shape: int, rng: np.random.Generator, scale: float = 1.0) -> tuple[Any, Any]:
    """Return the same numbers as a tensor of PyTorch and of minidl, both to be differentiated."""
    torch = pytest.importorskip("torch")

    values = rng.normal(size=shape) * scale
    theirs = torch.tensor(values, requires_grad=True)
    return theirs, Tensor(values, requires_grad=True)


def same(theirs: Any, ours: Tensor, what: str = "") -> None:
    wanted = theirs.detach().numpy()
    assert ours.shape == wanted.shape, what
    assert ours.dtype == wanted.dtype, what
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-10, atol=1e-10, err_msg=what)


def same_gradients(
    theirs: Any, ours: Tensor, pairs: list[tuple[Any, Tensor]], seed: int = 5
) -> None:
    torch = pytest.importorskip("torch")

    g = np.random.default_rng(seed).normal(size=ours.shape)
    wanted = torch.autograd.grad(theirs, [a for a, _ in pairs], torch.tensor(g), allow_unused=True)
    found = minidl.grad(ours, [b for _, b in pairs], [Tensor(g)], materialize_grads=True)
    for place, (a, b) in enumerate(zip(wanted, found, strict=True)):
        if a is None:
            assert not b.array.any()
        else:
            same(a, b, f"gradient {place}")


def loaded(ours: nn.Module, theirs: Any) -> nn.Module:
    """Give a layer the weights of PyTorch's; the names must be the same."""
    ours.to(dtype=np.float64)
    state = {name: p.detach().numpy() for name, p in theirs.state_dict().items()}
    assert set(ours.state_dict()) == set(state)
    ours.load_state_dict(state)
    return ours


def parameters(theirs: Any, ours: nn.Module) -> list[tuple[Any, Tensor]]:
    own = dict(ours.named_parameters())
    return [(p, own[name]) for name, p in theirs.named_parameters()]


@pytest.fixture(params=["fused", "composed"])
def form(request, monkeypatch):
    """Both forms of an operation: the kernel, and the composition of small operations."""
    if request.param == "composed":
        for name in ("attention", "recurrent"):
            monkeypatch.setattr(f"minidl.functional.{name}.may_use_kernel", lambda x: False)
    return request.param


# Attention ------------------------------------------------------------------------------------

MASKS = {
    "none": None,
    "bools": np.array([[True, False, True, True], [False, True, True, False], [True] * 4]),
    "dead row": np.array([[True, False, True, True], [False] * 4, [True] * 4]),
    "floats": np.linspace(-2, 1, 12).reshape(3, 4),
    "infinite": np.where(np.eye(3, 4), -np.inf, 0.5),
    "dead floats": np.array([[0.0] * 4, [-np.inf] * 4, [-1e9] * 4]),
    "per key": np.array([True, True, False, True]),
    "per head": np.random.default_rng(3).random((2, 1, 3, 4)) < 0.7,
}


@pytest.mark.oracle
@pytest.mark.parametrize("scale", [None, 0.3, 20.0])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_equals_pytorch(mask, causal, scale, form):
    torch = pytest.importorskip("torch")

    rng = np.random.default_rng(0)
    pairs = [pair(2, 2, n, 5, rng=rng) for n in (3, 4)] + [pair(2, 2, 4, 6, rng=rng)]
    given = MASKS[mask]
    # PyTorch's kernel takes no mask of one axis.
    theirs_mask = None if given is None else torch.tensor(np.atleast_2d(given))
    if causal:
        past = torch.ones(3, 4, dtype=torch.bool).tril()
        if theirs_mask is None:
            theirs_mask = past
        elif given.dtype == bool:
            theirs_mask = theirs_mask & past
        else:
            theirs_mask = theirs_mask.masked_fill(~past, -np.inf)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(a for a, _ in pairs), attn_mask=theirs_mask, scale=scale
    )
    ours = F.scaled_dot_product_attention(
        *(b for _, b in pairs), attn_mask=given, is_causal=causal, scale=scale
    )
    same(theirs, ours)
    same_gradients(theirs, ours, pairs)


@pytest.mark.oracle
def test_attention_broadcasts_and_differentiates_its_mask(form):
    torch = pytest.importorskip("torch")

    rng = np.random.default_rng(1)
    shapes = [(2, 1, 3, 4), (3, 5, 4), (2, 3, 5, 2), (3, 5)]
    pairs = [pair(*shape, rng=rng) for shape in shapes]
    theirs = torch.nn.functional.scaled_dot_product_attention(*(a for a, _ in pairs))
    same(theirs, ours := F.scaled_dot_product_attention(*(b for _, b in pairs)))
    same_gradients(theirs, ours, pairs)


def loop_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    out = np.zeros((len(q), v.shape[1]))
    for i, query in enumerate(q):
        weights = np.exp([query @ key / np.sqrt(q.shape[1]) for key in k])
        out[i] = sum(w * value for w, value in zip(weights, v, strict=True)) / weights.sum()
    return out


def test_attention_equals_a_literal_loop(form):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=shape) for shape in ((3, 4), (5, 4), (5, 2)))
    found = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v))
    np.testing.assert_allclose(found.numpy(), loop_attention(q, k, v), rtol=1e-12)


@pytest.mark.parametrize("size", [0.1, 30.0, 300.0])
def test_large_scores_overflow_nowhere(size, form):
    rng = np.random.default_rng(0)
    q, k, v = (Tensor(rng.normal(size=(2, 3, 4)) * size, np.float32) for _ in range(3))
    found = F.scaled_dot_product_attention(q, k, v).numpy()
    wanted = [
        loop_attention_shifted(*(x.numpy().astype(float)[i] for x in (q, k, v))) for i in (0, 1)
    ]
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-4 * size)


def loop_attention_shifted(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = q @ k.T / np.sqrt(q.shape[1])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ v


def test_a_nan_in_the_input_reaches_the_output(form):
    q = np.ones((1, 2, 3), np.float32)
    q[0, 1, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = F.scaled_dot_product_attention(Tensor(q), Tensor(q), Tensor(np.ones_like(q))).numpy()
    assert np.isnan(out).any()


def test_dropout_keeps_the_mean_and_follows_the_seed():
    q = minidl.zeros(1, 2000, 4)
    v = minidl.ones(1, 2000, 1)
    found = [
        F.scaled_dot_product_attention(q, q, v, dropout_p=0.5, rng=np.random.default_rng(0))
        for _ in range(2)
    ]
    assert np.array_equal(found[0].numpy(), found[1].numpy())
    assert abs(found[0].numpy().mean() - 1) < 0.01
    assert found[0].numpy().std() > 0.01


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("bias", "batch_first", "masks", "average", "weights"),
    [
        *itertools.product(
            *((True, False), (True, False), ("none", "padding", "both", "floats", "heads")),
            *((True, False), (True, False)),
        )
    ],
)
def test_multihead_attention_equals_pytorch(bias, batch_first, masks, average, weights):
    torch = pytest.importorskip("torch")

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    theirs = torch.nn.MultiheadAttention(
        6, 2, bias=bias, batch_first=batch_first, dtype=torch.float64
    )
    for p in theirs.parameters():  # biases start as zeros
        p.data += torch.tensor(rng.normal(size=p.shape) * 0.1)
    ours: Any = loaded(nn.MultiheadAttention(6, 2, bias=bias, batch_first=batch_first), theirs)
    shapes = [(3, n, 6) if batch_first else (n, 3, 6) for n in (4, 5, 5)]
    pairs = [pair(*shape, rng=rng) for shape in shapes]
    padding = np.array([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
    ignored = np.triu(np.ones((4, 5), bool), 1)
    options: dict[str, Any] = {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "both": {"key_padding_mask": padding, "attn_mask": ignored},
        "floats": {"attn_mask": rng.normal(size=(4, 5))},
        "heads": {"attn_mask": rng.random((6, 4, 5)) < 0.3},
    }[masks]
    found, shares = ours(
        *(b for _, b in pairs), need_weights=weights, average_attn_weights=average, **options
    )
    wanted, their_shares = theirs(
        *(a for a, _ in pairs),
        need_weights=weights,
        average_attn_weights=average,
        **{name: torch.tensor(value) for name, value in options.items()},
    )
    same(wanted, found)
    same_gradients(wanted, found, [*pairs, *parameters(theirs, ours)])
    assert (shares is None) == (not weights)
    if weights:
        same(their_shares, shares)


@pytest.mark.oracle
@pytest.mark.parametrize("mask", ["none", "padding", "causal"])
@pytest.mark.parametrize(
    ("norm_first", "activation", "batch_first", "bias"),
    [*itertools.product((True, False), ("relu", "gelu"), (True, False), (True, False))],
)
def test_transformer_encoder_equals_pytorch(norm_first, activation, batch_first, bias, mask):
    torch = pytest.importorskip("torch")

    torch.manual_seed(0)
    options = {"activation": activation, "norm_first": norm_first, "batch_first": batch_first}
    layer = torch.nn.TransformerEncoderLayer(
        6, 2, 8, 0.0, bias=bias, dtype=torch.float64, **options
    )
    norm = torch.nn.LayerNorm(6, dtype=torch.float64)
    theirs = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    rng = np.random.default_rng(0)
    for p in theirs.parameters():
        p.data += torch.tensor(rng.normal(size=p.shape) * 0.1)
    own: Any = nn.TransformerEncoderLayer(6, 2, 8, 0.0, bias=bias, **options)
    ours: Any = loaded(nn.TransformerEncoder(own, 2, nn.LayerNorm(6)), theirs)
    x, y = pair(*((3, 4, 6) if batch_first else (4, 3, 6)), rng=rng)
    padding = np.array([[False] * 4, [False, False, True, True], [False] * 3 + [True]])
    past = np.triu(np.ones((4, 4), bool), 1)
    wanted = theirs(
        x,
        mask=torch.tensor(past) if mask == "causal" else None,
        src_key_padding_mask=torch.tensor(padding) if mask == "padding" else None,
    )
    found = ours(
        y, src_key_padding_mask=padding if mask == "padding" else None, is_causal=mask == "causal"
    )
    same(wanted, found)
    same_gradients(wanted, found, [(x, y), *parameters(theirs, ours)])


def test_positions_are_sines_or_learned():
    encode = nn.PositionalEncoding(7, 4)
    found = encode(minidl.zeros(1, 7, 4)).numpy()[0]
    for t in range(7):
        for i in range(2):
            angle = t / 10000 ** (2 * i / 4)
            wanted = [np.sin(angle), np.cos(angle)]
            np.testing.assert_allclose(found[t, 2 * i : 2 * i + 2], wanted, atol=1e-6)
    assert encode.weight is None
    learned = nn.PositionalEncoding(7, 4, learned=True, rng=np.random.default_rng(0))
    learned(minidl.zeros(2, 3, 4)).sum().backward()
    assert learned.weight.grad.numpy().tolist() == [[2.0] * 4] * 3 + [[0.0] * 4] * 4
    with pytest.raises(ValueError, match="length <= 7, 4"):
        encode(minidl.zeros(1, 8, 4))


# Recurrent layers -----------------------------------------------------------------------------

SHAPES = {
    "plain": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "both ways": {"bidirectional": True},
    "deep": {"num_layers": 3, "bidirectional": True, "batch_first": True},
}


@pytest.mark.oracle
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]], ids=["whole", "lengths"])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_recurrent_layers_equal_pytorch(kind, options, given, lengths, form):
    torch = pytest.importorskip("torch")
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    torch.manual_seed(0)
    rng, o = np.random.default_rng(0), SHAPES[options]
    theirs = getattr(torch.nn, kind)(2, 4, dtype=torch.float64, **o)
    ours: Any = loaded(getattr(nn, kind)(2, 4, **o), theirs)
    first = o.get("batch_first", False)
    x, y = pair(*((3, 5, 2) if first else (5, 3, 2)), rng=rng)
    count = o.get("num_layers", 1) * (1 + o.get("bidirectional", False))
    states = [pair(count, 3, 4, rng=rng) for _ in range(1 if kind == "GRU" else 2)]
    start: Any = tuple(a for a, _ in states)
    own: Any = tuple(b for _, b in states)
    start, own = (start[0], own[0]) if kind == "GRU" else (start, own)

    def source() -> Any:
        return x if lengths is None else pack_padded_sequence(x, lengths, first, False)

    wanted, end = theirs(source(), start if given else None)
    mask = None
    if lengths is not None:
        wanted, _ = pad_packed_sequence(wanted, first)
        mask = np.arange(5) < np.array(lengths)[:, None]
        mask = mask if first else mask.T
    found, own_end = ours(y, own if given else None, mask)
    same(wanted, found)
    finals = [(end, own_end)] if kind == "GRU" else list(zip(end, own_end, strict=True))
    pairs = [(x, y), *parameters(theirs, ours), *(states if given else [])]
    same_gradients(wanted, found, pairs)
    for a, b in finals:
        same(a, b)
    # The final states, on a graph of their own: the first one is freed.
    _, end = theirs(source(), start if given else None)
    _, own_end = ours(y, own if given else None, mask)
    last = (end, own_end) if kind == "GRU" else (end[1], own_end[1])
    same_gradients(*last, pairs)


# Errors ---------------------------------------------------------------------------------------

Q, X, H = minidl.zeros(2, 3, 4), minidl.zeros(5, 2, 3), minidl.zeros(2, 4)
WI, WH, S = minidl.zeros(12, 3), minidl.zeros(12, 4), minidl.zeros(2, 3, 4)
ON = np.ones((2, 4), bool)

ERRORS: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: F.scaled_dot_product_attention(Q, minidl.zeros(2, 3, 5), Q),
        *(ValueError, "query .2, 3, 4., key .2, 3, 5.*expected .*l, e"),
    ),
    (
        lambda: F.scaled_dot_product_attention(Q, Q, minidl.zeros(3, 3, 4)),
        *(ValueError, "leading axes .* expected axes that broadcast"),
    ),
    (
        lambda: F.scaled_dot_product_attention(Q, Q, Q, np.ones((2, 2), bool)),
        *(ValueError, "mask of shape .2, 2., expected one that broadcasts to .2, 3, 3."),
    ),
    (
        lambda: F.scaled_dot_product_attention(Q, Q, Q, np.ones((3, 3), int)),
        *(TypeError, "mask of dtype int64, expected bools or floats"),
    ),
    (lambda: F.scaled_dot_product_attention(Q, Q, Q, dropout_p=2), ValueError, "dropout_p=2"),
    (
        lambda: F.scaled_dot_product_attention(Q, Q, Q.to(dtype=np.float64)),
        *(TypeError, "dtype float32 and value with dtype float64"),
    ),
    (lambda: F.gru(X, minidl.zeros(5, 4), WI, WH), ValueError, "is the batch the first axis"),
    (lambda: F.gru(X[:0], H, WI, WH), ValueError, "length >= 1"),
    (lambda: F.gru(X, H, WH, WH), ValueError, r"weight_ih of shape \(12, 4\), expected \(12, 3\)"),
    (lambda: F.gru(X, H, WI, WH, H), ValueError, r"bias_ih of shape \(2, 4\), expected \(12,\)"),
    (lambda: F.gru(X, H, WI, WH, mask=np.ones((5, 2))), TypeError, "mask of dtype float64"),
    (lambda: F.gru(X, H, WI, WH, mask=ON), ValueError, r"expected \(length, n\) = \(5, 2\)"),
    (
        lambda: F.lstm(X, H, minidl.zeros(2, 5), minidl.zeros(16, 3), minidl.zeros(16, 4)),
        *(ValueError, "c0 of shape .2, 5., expected .2, 4."),
    ),
    (lambda: F.masked_avg_pool1d(S, ON.astype(int)), TypeError, "mask of dtype int64"),
    (lambda: F.masked_max_pool1d(S, ON[:, :3]), ValueError, r"expected \(2, 4\): \(n, length\)"),
    (lambda: F.masked_avg_pool1d(S[0], ON), ValueError, r"expected \(n, c, length\)"),
    (
        lambda: F.masked_attention_pool1d(S, minidl.zeros(4), ON),
        *(ValueError, r"weight of shape \(4,\), expected \(3,\)"),
    ),
    (lambda: nn.MultiheadAttention(6, 4), ValueError, "embed_dim=6 and num_heads=4"),
    (lambda: nn.MultiheadAttention(4, 2)(S, S, S[:, :, :3]), ValueError, "the last of 4 channels"),
    (
        lambda: nn.MultiheadAttention(4, 2)(S, S, S, key_padding_mask=ON),
        *(ValueError, r"key_padding_mask of shape \(2, 4\), expected \(3, 2\)"),
    ),
    (
        lambda: nn.MultiheadAttention(4, 2)(S, S, S, attn_mask=ON),
        *(ValueError, r"expected \(2, 2\) or \(6, 2, 2\)"),
    ),
    (lambda: nn.TransformerEncoderLayer(4, 2, activation="tanh"), ValueError, "'relu' or 'gelu'"),
    (lambda: nn.GRU(4, 0), ValueError, "hidden_size"),
    (lambda: nn.GRU(4, 3)(S[:, :, :3]), ValueError, r"expected \(length, n, 4\)"),
    (lambda: nn.GRU(4, 3)(S, mask=ON), ValueError, r"expected bools of shape \(2, 3\)"),
    (lambda: nn.GRU(4, 3)(S, H), ValueError, r"state of shape \(2, 4\), expected \(1, 3, 3\)"),
]


@pytest.mark.parametrize(("call", "kind", "says"), ERRORS)
def test_an_error_says_what_it_got_and_expected(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


# Both forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_gradients_of_the_kernel_are_those_of_the_composed_form(kind, monkeypatch):
    """Of all inputs at once, in float32, with a mask and backwards."""
    rng, gates = np.random.default_rng(0), 3 if kind == "gru" else 4
    shapes = [(7, 5, 3), *[(5, 6)] * (gates - 2), (gates * 6, 3), (gates * 6, 6)]
    shapes += [(gates * 6,)] * 2
    arrays = [rng.normal(size=shape) * 0.5 for shape in shapes]
    mask = rng.random((7, 5)) < 0.7
    found = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr("minidl.functional.recurrent.may_use_kernel", lambda x: False)
        inputs = [Tensor(array, np.float32, requires_grad=True) for array in arrays]
        out = getattr(F, kind)(*inputs, mask=mask, reverse=True)
        assert (out.node.op == kind) == fused
        found.append([out, *minidl.grad((out * out).sum(), inputs)])
    for a, b in zip(*found, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


def test_an_input_computed_from_another_gets_no_part_of_its_second_gradient():
    """h0 = f(weight_hh): the gradient of the weight must not include the path through h0."""
    rng = np.random.default_rng(0)
    x, wi = (Tensor(rng.normal(size=shape)) for shape in ((3, 2, 2), (6, 2)))
    wh = Tensor(rng.normal(size=(6, 2)), requires_grad=True)
    plain = minidl.grad(F.gru(x, wh[:2], wi, wh).sum(), wh)[0]
    recorded = minidl.grad(F.gru(x, wh[:2], wi, wh).sum(), wh, create_graph=True)[0]
    np.testing.assert_allclose(plain.numpy(), recorded.numpy(), rtol=1e-12)
