"""Transformer encoders: self-attention and a small network per step, each added to its input."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np

from minidl import functional as F
from minidl.backends import Array
from minidl.checks import check_whole
from minidl.nn.attention import MultiheadAttention
from minidl.nn.containers import ModuleList
from minidl.nn.linear import Dropout, Linear
from minidl.nn.module import Module
from minidl.nn.normalization import LayerNorm
from minidl.tensor import Tensor


class TransformerEncoderLayer(Module):
    """Self-attention, then two linear maps with an activation between, both as residuals.

    `x = norm1(x + attention(x)); x = norm2(x + linear2(act(linear1(x))))`, or with `norm_first`
    `x = x + attention(norm1(x)); x = x + linear2(act(linear1(norm2(x))))`. Dropout follows
    attention's weights, both residuals, and the activation.

    Args:
        d_model: channels of input and output.
        nhead: heads of the attention.
        dim_feedforward: channels between the two linear maps.
        dropout: probability of dropout.
        activation: `"relu"` or `"gelu"`.
        layer_norm_eps: `eps` of the layer norms.
        batch_first: whether sequences are `(n, length, c)` instead of `(length, n, c)`.
        norm_first: normalise what goes into attention and maps ("pre-norm") instead of the sums.
        bias: whether linear maps and norms have a bias.
        rng: generator for the initial weights and dropout; the seeded stream if None.

    Source: A. Vaswani et al., Attention Is All You Need (2017), section 3.1; R. Xiong et al., On
    Layer Normalization in the Transformer Architecture (2020), for `norm_first`.

    Example:
        >>> import minidl
        >>> TransformerEncoderLayer(8, 2, 16, batch_first=True)(minidl.ones(3, 5, 8)).shape
        (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Literal["relu", "gelu"] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_whole("TransformerEncoderLayer", 1, dim_feedforward=dim_feedforward)
        if activation not in ("relu", "gelu"):
            raise ValueError(
                f"TransformerEncoderLayer: got activation={activation!r}, expected 'relu' or 'gelu'"
            )
        self.activation, self.norm_first = activation, norm_first
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first, rng)
        self.linear1 = Linear(d_model, dim_feedforward, bias, rng)
        self.dropout = Dropout(dropout, rng)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rng)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1, self.dropout2 = Dropout(dropout, rng), Dropout(dropout, rng)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | Array | None = None,
        src_key_padding_mask: Tensor | Array | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Encode a sequence.

        Args:
            src: `(n, length, d_model)` with `batch_first`, else `(length, n, d_model)`.
            src_mask: see `MultiheadAttention.forward`, `attn_mask`.
            src_key_padding_mask: `(n, length)`, True for steps that are padding.
            is_causal: each step attends only to itself and earlier ones.

        Returns:
            A tensor of the shape of `src`.
        """
        if self.norm_first:
            x = src + self._attend(self.norm1(src), src_mask, src_key_padding_mask, is_causal)
            return x + self._map(self.norm2(x))
        x = self.norm1(src + self._attend(src, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._map(x))

    def _attend(
        self,
        x: Tensor,
        mask: Tensor | Array | None,
        padding: Tensor | Array | None,
        is_causal: bool,
    ) -> Tensor:
        out, _ = self.self_attn(x, x, x, padding, False, mask, is_causal=is_causal)
        return self.dropout1(out)

    def _map(self, x: Tensor) -> Tensor:
        inner = self.linear1(x)
        inner = F.relu(inner) if self.activation == "relu" else F.gelu(inner)
        return self.dropout2(self.linear2(self.dropout(inner)))


class TransformerEncoder(Module):
    """Several encoder layers, one after another, and a norm at the end.

    Args:
        encoder_layer: copied `num_layers` times; as in PyTorch, all copies start with its weights.
        num_layers: how many.
        norm: applied to the result, such as a `LayerNorm`; None for none.

    Example:
        >>> import minidl
        >>> layer = TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> TransformerEncoder(layer, 2)(minidl.ones(3, 5, 8)).shape
        (3, 5, 8)
    """

    def __init__(
        self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        check_whole("TransformerEncoder", 1, num_layers=num_layers)
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | Array | None = None,
        src_key_padding_mask: Tensor | Array | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Encode a sequence: see `TransformerEncoderLayer.forward`."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)
