# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The network of the embedded model in plain PyTorch: a small Llama-style decoder without biases."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Tokens of the text's own vocabulary; the markers of turns in a conversation follow them.
TEXT_TOKENS = 4096


@dataclass(frozen=True)
class Config:
    """The sizes of the network."""

    vocab_size: int = TEXT_TOKENS + 3
    hidden_size: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn_size: int = 704
    rope_theta: float = 10000.0
    epsilon: float = 1e-5

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as plain values."""
        return asdict(self)


def rope_tables(config: Config, positions: int) -> tuple[Tensor, Tensor]:
    """Return the cosine and sine tables, each (positions, head_dim / 2), float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * (config.rope_theta**-exponents)[None]
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head, as RotaryEmbedding does with interleaved=0."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RMSNorm(nn.Module):
    """Root-mean-square normalization with a learned scale."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension in float32."""
        return functional.rms_norm(x.float(), (x.shape[-1],), self.weight, self.epsilon)


class Block(nn.Module):
    """One decoder layer: grouped-query attention, then SwiGLU, each behind a normalization."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.input_norm = RMSNorm(c.hidden_size, c.epsilon)
        self.q_proj = nn.Linear(c.hidden_size, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.hidden_size, bias=False)
        self.post_norm = RMSNorm(c.hidden_size, c.epsilon)
        self.gate_proj = nn.Linear(c.hidden_size, c.ffn_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.ffn_size, bias=False)
        self.down_proj = nn.Linear(c.ffn_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Run the layer on (batch, sequence, hidden)."""
        c = self.c
        batch, length, _ = x.shape
        h = self.input_norm(x)
        q = self.q_proj(h).view(batch, length, c.heads, c.head_dim).transpose(1, 2)
        k = self.k_proj(h).view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v_proj(h).view(batch, length, c.kv_heads, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        repeat = c.heads // c.kv_heads
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        a = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(a.transpose(1, 2).reshape(batch, length, -1))
        h = self.post_norm(x)
        down: Tensor = self.down_proj(functional.silu(self.gate_proj(h)) * self.up_proj(h))
        return x + down


class Decoder(nn.Module):
    """The whole decoder; the embedding table is also the output matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.epsilon)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                scale = (
                    0.02 / (2 * config.layers) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                )
                nn.init.normal_(parameter, std=scale)

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the normalized last hidden states of (batch, sequence) token ids."""
        cos, sin = rope_tables(self.config, ids.shape[1])
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        out: Tensor = self.norm(x)
        return out

    def forward(self, ids: Tensor) -> Tensor:
        """Return float32 logits (batch, sequence, vocabulary)."""
        return functional.linear(self.hidden(ids), self.embedding.weight).float()


@torch.no_grad()
def greedy(model: Decoder, ids: list[int], steps: int, end: int = 0) -> list[int]:
    """Return ``ids`` and up to ``steps`` tokens chosen greedily, without a cache (slow and simple)."""
    ids = list(ids)
    for _ in range(steps):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
        if token == end:
            break
    return ids
