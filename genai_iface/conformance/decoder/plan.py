# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which golden models there are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DTYPES", "PLANS", "Plan"]

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One decoder in the manner of Llama.

    Attributes:
        name: Name of its folders.
        rotary_dim: Rotated part of each head; None for all of it.
        window: Positions of a circular cache, of the smallest one where they differ; None for a linear one.
        windows: Those of each layer, where they differ.
        layout: "bnsh" or "bsh", of the scatter form.
        fixed_capacity: Positions that the scatter graph names; None for any number.
        attention_scale: Multiplies the query and key weights; above 1 makes attention sharper.
        num_tokens: Tokens of the teacher-forced sequence.
        num_rows: How many such sequences.
        keep: How many of its last positions the reference keeps; None for all.
        num_greedy: Greedy steps of the reference.
        is_text: Has a byte tokenizer, and weights that say a text.
        has_concat: Also has the form with growing tensors.
        experts: MLPs of each layer, of which a router takes two for each token; 0 for one that is always taken.
        is_quantized: The matrices of attention and MLP are stored as blocks of small integers.
        is_masked: The graph takes position_ids and attention_mask, and does not know its lengths in another way.
        dtypes: Element types that it is written in.
        checkpoint: Hugging Face model type that the weights are also written for, or "".
        seed: Of the weights; chosen by ``search.py`` so that every greedy step has its margin.
    """

    name: str
    layers: int = 1
    hidden: int = 16
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 8
    intermediate: int = 24
    vocab_size: int = 40
    context_length: int = 48
    rotary_dim: int | None = None
    softcap: float = 0.0
    window: int | None = None
    windows: tuple[int, ...] = ()
    layout: str = "bnsh"
    fixed_capacity: int | None = None
    attention_scale: float = 1.0
    num_tokens: int = 24
    num_rows: int = 1
    keep: int | None = None
    num_greedy: int = 6
    is_text: bool = False
    has_concat: bool = True
    experts: int = 0
    is_quantized: bool = False
    is_masked: bool = False
    dtypes: tuple[str, ...] = DTYPES
    checkpoint: str = "llama"
    seed: int = 0

    def window_of(self, layer: int) -> int | None:
        """Positions of a layer's circular cache; None for a linear one."""
        return self.windows[layer] if self.windows else self.window

    def judged_as(self, dtype: str) -> str:
        """The type whose rounding a runtime may show: kernels of blocked weights round activations to eight bits."""
        return "bfloat16" if self.is_quantized else dtype

    def mlps(self, layer: int) -> tuple[str, ...]:
        """What the names of the weights of a layer's MLPs begin with."""
        return tuple(f"{layer}.{expert}" for expert in range(self.experts)) or (str(layer),)

    @property
    def reduction_length(self) -> int:
        """Terms that are summed on the longest way from a token to a logit; see the kit's tolerance.py."""
        longest = self.num_tokens + self.num_greedy
        keys = min(longest, max(self.windows, default=self.window or longest))
        attention = self.hidden + self.head_dim + keys + self.num_heads * self.head_dim
        # The router, and two MLPs instead of one.
        routed = self.hidden + self.intermediate if self.experts else 0
        return self.layers * (attention + self.hidden + self.intermediate + routed) + self.hidden

    @property
    def num_stores(self) -> int:
        """Tensors that are stored on that way: twelve in a layer, and embedding, norm, logits."""
        return (16 if self.experts else 12) * self.layers + 3


PLANS: tuple[Plan, ...] = (
    Plan(name="base", num_rows=3, seed=26684, layers=2),
    Plan(
        name="rank3", num_rows=3, seed=26684, layers=2, layout="bsh", fixed_capacity=32, checkpoint="", has_concat=False
    ),
    Plan(name="group1", seed=365, hidden=12, num_heads=3, num_kv_heads=3, has_concat=False),
    Plan(name="group3", seed=1399, hidden=12, num_heads=6, num_kv_heads=2),
    Plan(name="group8", seed=308, num_heads=8, num_kv_heads=1),
    Plan(
        name="head64",
        seed=105,
        num_heads=2,
        num_kv_heads=1,
        head_dim=64,
        context_length=20,
        num_tokens=16,
        hidden=8,
        intermediate=16,
    ),
    Plan(
        name="head80",
        seed=922,
        num_heads=2,
        num_kv_heads=1,
        head_dim=80,
        context_length=20,
        num_tokens=16,
        hidden=8,
        intermediate=16,
        has_concat=False,
    ),
    Plan(
        name="head128",
        seed=1113,
        num_heads=2,
        num_kv_heads=1,
        head_dim=128,
        context_length=20,
        num_tokens=16,
        hidden=8,
        intermediate=16,
        has_concat=False,
    ),
    Plan(
        name="head256",
        seed=42,
        num_heads=1,
        num_kv_heads=1,
        head_dim=256,
        context_length=20,
        num_tokens=16,
        hidden=8,
        intermediate=16,
        has_concat=False,
    ),
    Plan(name="partial", seed=137, head_dim=16, rotary_dim=8, checkpoint="phi3"),
    Plan(name="softcap", seed=916, softcap=1.5, attention_scale=3.0, checkpoint=""),
    Plan(name="ring", num_rows=3, seed=21367, layers=2, window=8, fixed_capacity=8, checkpoint="", has_concat=False),
    Plan(
        name="rings",
        seed=7,
        layers=2,
        hidden=8,
        intermediate=16,
        vocab_size=32,
        context_length=24,
        num_tokens=16,
        num_greedy=3,
        window=6,
        windows=(10, 6),
        checkpoint="",
        has_concat=False,
    ),
    Plan(
        name="long",
        seed=14,
        hidden=8,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        rotary_dim=4,
        intermediate=16,
        vocab_size=32,
        context_length=4112,
        attention_scale=3.0,
        num_tokens=4096,
        keep=4,
        num_greedy=3,
        checkpoint="phi3",
    ),
    Plan(name="masked", num_rows=3, seed=100, is_masked=True, checkpoint=""),
    Plan(
        name="experts",
        num_rows=3,
        seed=154,
        num_kv_heads=4,
        experts=4,
        intermediate=16,
        num_greedy=3,
        checkpoint="",
        has_concat=False,
    ),
    Plan(name="quantized", seed=131, num_rows=3, intermediate=32, is_quantized=True, checkpoint="", has_concat=False),
    Plan(
        name="longer",
        seed=0,
        hidden=8,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        rotary_dim=2,
        intermediate=16,
        vocab_size=32,
        context_length=8208,
        attention_scale=3.0,
        num_tokens=16,
        num_greedy=3,
        checkpoint="",
        has_concat=False,
        dtypes=("float32",),
    ),
    Plan(
        name="text",
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        vocab_size=261,
        context_length=64,
        num_tokens=8,
        num_greedy=11,
        is_text=True,
    ),
)
