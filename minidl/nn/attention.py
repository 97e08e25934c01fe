"""Attention layers: several heads side by side, and positions for those who need an order."""

from __future__ import annotations

import math

import numpy as np

from minidl import functional as F
from minidl.backends import Array
from minidl.checks import check_fraction, check_whole
from minidl.functional.attention import attention_weights, mask_bias
from minidl.functional.geometry import check_floats
from minidl.nn import init
from minidl.nn.linear import Linear
from minidl.nn.module import Module, Parameter
from minidl.tensor import Tensor
from minidl.tensor.functions import randn, zeros


class MultiheadAttention(Module):
    """Attend with several heads: each has its own `embed_dim / num_heads` channels.

    `out_proj(concatenate(softmax(q_i @ k_i.T / sqrt(d)) @ v_i for each head i))`, where q, k and v
    are linear maps of query, key and value. A query whose keys are all masked gets zeros before
    `out_proj`.

    Args:
        embed_dim: channels of query, key, value and output.
        num_heads: a divisor of `embed_dim`.
        dropout: probability with which a weight is set to 0 in training.
        bias: whether the linear maps have a bias.
        batch_first: whether sequences are `(n, length, c)` instead of `(length, n, c)`.
        rng: generator for the initial weights and dropout; the seeded stream if None.

    Attributes:
        in_proj_weight: `(3 * embed_dim, embed_dim)`: of query, key and value.
        in_proj_bias: `(3 * embed_dim,)`, or None.
        out_proj: the linear map of the joined heads.

    Source: A. Vaswani et al., Attention Is All You Need (2017), section 3.2.2.

    Example:
        >>> import minidl
        >>> x = minidl.ones(2, 5, 8)
        >>> out, weights = MultiheadAttention(8, 2, batch_first=True)(x, x, x)
        >>> out.shape, weights.shape
        ((2, 5, 8), (2, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_whole("MultiheadAttention", 1, embed_dim=embed_dim, num_heads=num_heads)
        check_fraction("MultiheadAttention", "dropout", dropout)
        if embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: got embed_dim={embed_dim} and num_heads={num_heads}, "
                "expected a multiple of the heads"
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.batch_first, self._rng = batch_first, rng
        self.in_proj_weight = Parameter(zeros(3 * embed_dim, embed_dim))
        init.xavier_uniform_(self.in_proj_weight, rng=rng)
        self.in_proj_bias = Parameter(zeros(3 * embed_dim)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, rng)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | Array | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values, and the weights of attention or None.

        Args:
            query: `(n, l, c)` with `batch_first`, else `(l, n, c)`.
            key: `(n, s, c)` or `(s, n, c)`.
            value: of the key's shape.
            key_padding_mask: `(n, s)`; bools are True for keys to ignore, floats are added.
            need_weights: return the weights; without them, attention is faster.
            attn_mask: `(l, s)` or `(n * num_heads, l, s)`; bools are True where a query must not
                attend to a key, floats are added to the scores.
            average_attn_weights: return the mean of the heads' weights, not each head's.
            is_causal: query i attends only to keys j <= i.

        Returns:
            A tensor of the query's shape, and `(n, l, s)` or `(n, num_heads, l, s)` or None.

        Raises:
            ValueError: shapes do not fit each other.
            TypeError: dtypes or devices differ, or a mask is of integers.
        """
        q, k, v = (self._heads(i, x) for i, x in enumerate((query, key, value)))
        bias = self._bias(q, k.shape[2], key_padding_mask, attn_mask)
        if is_causal:
            past = ~np.tri(q.shape[2], k.shape[2], dtype=bool)
            bias = self._added(bias, self._from_ignored(Tensor(past, device=query.device), query))
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scale = (self.embed_dim // self.num_heads) ** -0.5
            weights = attention_weights(q, k, bias, scale)
            joined = F.dropout(weights, drop, rng=self._rng) @ v
        else:
            joined = F.scaled_dot_product_attention(q, k, v, bias, drop, rng=self._rng)
        order = (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)
        out = self.out_proj(joined.transpose(order).reshape(query.shape))
        return out, weights.mean(1) if weights is not None and average_attn_weights else weights

    def _heads(self, place: int, x: Tensor) -> Tensor:
        """Map a sequence linearly and split it into heads: `(n, num_heads, length, c / heads)`."""
        check_floats("MultiheadAttention", x)
        if x.ndim != 3 or x.shape[2] != self.embed_dim:
            raise ValueError(
                f"MultiheadAttention: got shape {x.shape}, expected three axes, the last of "
                f"{self.embed_dim} channels"
            )
        rows = slice(place * self.embed_dim, (place + 1) * self.embed_dim)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        mapped = F.linear(x, self.in_proj_weight[rows], bias)
        split = mapped.reshape(*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads)
        return split.transpose((0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _bias(
        self, query: Tensor, keys: int, padding: Tensor | Array | None, mask: Tensor | Array | None
    ) -> Tensor | None:
        """Return what the masks add to the scores `(n, num_heads, l, s)`, or None."""
        bias, (n, heads, length, _) = None, query.shape
        if padding is not None:
            bias = self._from_ignored(padding, query)
            if bias.shape != (n, keys):
                raise ValueError(
                    f"MultiheadAttention: got a key_padding_mask of shape {bias.shape}, expected "
                    f"{(n, keys)}"
                )
            bias = bias.reshape(n, 1, 1, keys)
        if mask is None:
            return bias
        added = self._from_ignored(mask, query)
        if added.shape not in ((length, keys), (n * heads, length, keys)):
            raise ValueError(
                f"MultiheadAttention: got an attn_mask of shape {added.shape}, expected "
                f"{(length, keys)} or {(n * heads, length, keys)}"
            )
        return self._added(
            bias, added.reshape(-1, heads, length, keys) if added.ndim == 3 else added
        )

    @staticmethod
    def _added(bias: Tensor | None, other: Tensor) -> Tensor:
        return other if bias is None else bias + other

    @staticmethod
    def _from_ignored(mask: Tensor | Array, like: Tensor) -> Tensor:
        """Return a mask, whose bools are True for keys to ignore, as what is added to scores."""
        if getattr(mask, "dtype", None) == np.bool_:
            mask = ~(mask.array if isinstance(mask, Tensor) else mask)
        return mask_bias("MultiheadAttention", mask, like)


class PositionalEncoding(Module):
    """Add a vector for its position to each step of a sequence `(n, length, channels)`.

    Attention does not see the order of its inputs; these vectors tell it.

    Args:
        max_length: the longest sequence.
        channels: the channels of the sequences.
        learned: train the vectors; otherwise they are
            `sin(t / 10000**(2 * i / channels))` and cos of the same, in turn.
        rng: generator for vectors to be learned; the seeded stream if None.

    Attributes:
        weight: `(max_length, channels)` if learned, else None.

    Source: A. Vaswani et al., Attention Is All You Need (2017), section 3.5.

    Example:
        >>> import minidl
        >>> PositionalEncoding(10, 4)(minidl.zeros(1, 1, 4)).reshape(4)
        Tensor([0., 1., 0., 1.], dtype=float32)
    """

    def __init__(
        self,
        max_length: int,
        channels: int,
        learned: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_whole("PositionalEncoding", 1, max_length=max_length, channels=channels)
        self.max_length, self.channels, self.learned = max_length, channels, learned
        self.weight = Parameter(randn(max_length, channels, rng=rng) * 0.02) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the vectors of the first positions."""
        check_floats("PositionalEncoding", x)
        if x.ndim != 3 or x.shape[1] > self.max_length or x.shape[2] != self.channels:
            raise ValueError(
                f"PositionalEncoding: got shape {x.shape}, expected (n, length <= "
                f"{self.max_length}, {self.channels})"
            )
        if self.weight is not None:
            return x + self.weight[: x.shape[1]]
        pairs = np.arange(self.channels) // 2 * 2
        angles = np.arange(x.shape[1])[:, None] * np.exp(pairs * (-math.log(1e4) / self.channels))
        waves = np.where(np.arange(self.channels) % 2, np.cos(angles), np.sin(angles))
        return x + Tensor(waves.astype(x.dtype), device=x.device)
