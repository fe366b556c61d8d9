# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RotaryEmbedding for rotations that an exporter has written out, whatever their factors come through."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import onnx_ir as ir

from genai_iface.graph._edit import Editor, copy_type, replace_value, same_dims
from genai_iface.graph._walk import is_op, rank, static_dim
from genai_iface.transform.fuse._last_axis import Cut, cut_of, interleaved, joined
from genai_iface.transform.fuse._rotary_factors import Factor, factor_of, for_every_row, half_size
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["FuseRotary"]

_FIRST_OPSET = 23


@dataclass(frozen=True, slots=True)
class _Rotation:
    """A rotation as it was found.

    Attributes:
        node: The node that gives the rotated value.
        parts: What is rotated; two values are joined on the last axis first.
        cos: The cosines that it multiplies.
        sin: The sines that it multiplies.
        interleaved: Pairs are neighbours, not half the size apart.
    """

    node: ir.Node
    parts: tuple[ir.Value, ...]
    cos: Factor
    sin: Factor
    interleaved: bool


class FuseRotary(Rewrite):
    """Replaces a written-out rotation by one RotaryEmbedding node.

    Two forms are understood, each with the pairs half the size apart or next to each other, and with the heads
    on axis 1 or 2: ``x * cos + rotate(x) * sin`` with repeated factors, and ``(x0 * cos - x1 * sin,
    x1 * cos + x0 * sin)`` with factors of half the size. Between the repetition and the product the factors
    may be cast, scaled by a constant and given an axis for the heads; a batch of 1 is repeated for all rows.

    Precondition: opset 23, rank 4, the head size is known and even, the repetition of the factors is in the graph,
    and the factors broadcast over the heads only.
    Exact: the same products and sums.
    """

    name = "fuse-rotary"

    def rewrite(self, model: ir.Model) -> Note:
        """Fuses every rotation."""
        graph = model.graph
        opset = model.opset_imports.get("", 0)
        if opset < _FIRST_OPSET:
            return self.said(0, f"opset {opset} has no RotaryEmbedding")
        edit = Editor(graph, "fuse_rotary")
        count = 0
        for node in list(graph):
            rotation = _repeated_form(node) or _half_form(node)
            if rotation is not None and _types_agree(rotation) and _keeps_shape(rotation):
                _replace(edit, rotation)
                count += 1
        if not count:
            return self.said(0, "no rotation with factors whose repetition is known")
        return self.said(count, f"{count} rotations became RotaryEmbedding")


def _types_agree(rotation: _Rotation) -> bool:
    """RotaryEmbedding takes one element type; the steps of a factor end in that of the product."""
    x = rotation.parts[0]
    kinds = [
        factor.steps[-1][0].outputs[0] if factor.steps else factor.source for factor in (rotation.cos, rotation.sin)
    ]
    return x.dtype is not None and all(kind.dtype == x.dtype for kind in kinds)


def _keeps_shape(rotation: _Rotation) -> bool:
    """Whether the factors broadcast over the heads only, apart from a batch of 1 that is repeated."""
    x, axis = rotation.parts[0], 3 - rotation.cos.heads_axis
    for factor in (rotation.cos, rotation.sin):
        dims = list(factor.source.shape or ())
        if len(dims) == 4:
            del dims[factor.heads_axis]
        if len(dims) != 3 or x.shape is None or (isinstance(dims[2], int) and dims[2] * 2 != _rotated_size(rotation)):
            return False
        if (dims[0] != 1 and x.shape[0] == 1) or (dims[1] == 1 and x.shape[axis] != 1):
            return False
    return True


def _rotated_size(rotation: _Rotation) -> int:
    return sum(static_dim(part, -1) or 0 for part in rotation.parts)


def _repeated_form(node: ir.Node) -> _Rotation | None:
    """``x * cos + rotate(x) * sin``."""
    if not is_op(node, "Add"):
        return None
    products = [each for each in (value.producer() for value in node.inputs if value) if each and is_op(each, "Mul")]
    if len(products) != 2:
        return None
    for straight, turned in (products, products[::-1]):
        for i, j in product((0, 1), (0, 1)):
            x, found = straight.inputs[i], _rotated_like(straight.inputs[i], turned.inputs[j])
            if x is None or found is None or not _fits(x):
                continue
            repeat = "pairs" if found else "halves"
            cos, sin = factor_of(straight.inputs[1 - i], repeat), factor_of(turned.inputs[1 - j], repeat)
            if cos is not None and sin is not None and cos.heads_axis == sin.heads_axis:
                return _Rotation(node, (x,), cos, sin, found)
    return None


def _rotated_like(x: ir.Value | None, value: ir.Value | None) -> bool | None:
    """Whether pairs are neighbours where a value is (-x1, x0) of x, each cast to the same type; None if it isn't."""
    found = _rotated(value)
    if found is not None:
        return found[1] if found[0] is x else None
    one, other = (None if each is None else each.producer() for each in (x, value))
    if one is None or other is None or not is_op(one, "Cast") or not is_op(other, "Cast"):
        return None
    found = _rotated(other.inputs[0])
    same = found is not None and found[0] is one.inputs[0] and one.outputs[0].dtype == other.outputs[0].dtype
    return found[1] if same and found is not None else None


def _rotated(value: ir.Value | None) -> tuple[ir.Value, bool] | None:
    """(x, whether pairs are neighbours) where a value is (-x1, x0)."""
    for parts, neighbours in ((joined(value), False), (interleaved(value), True)):
        if parts is None:
            continue
        negative = parts[0].producer()
        if negative is None or not is_op(negative, "Neg"):
            continue
        first, second = cut_of(parts[1]), cut_of(negative.inputs[0])
        if first is None or second is None or first.whole is not second.whole:
            continue
        if _neighbours(first, second) if neighbours else _apart(first, second):
            return first.whole, neighbours
    return None


def _apart(first: Cut, second: Cut) -> bool:
    return first.is_first_half() and second.is_second_half()


def _neighbours(first: Cut, second: Cut) -> bool:
    return first.is_every_other(0) and second.is_every_other(1)


def _half_form(node: ir.Node) -> _Rotation | None:
    """``(x0 * cos - x1 * sin, x1 * cos + x0 * sin)``, joined or interleaved."""
    if not node.outputs:
        return None
    output = node.outputs[0]
    for parts, neighbours in ((joined(output), False), (interleaved(output), True)):
        if parts is None:
            continue
        minus, plus = parts[0].producer(), parts[1].producer()
        if minus is None or plus is None or not is_op(minus, "Sub") or not is_op(plus, "Add"):
            continue
        products = [value.producer() for each in (minus, plus) for value in each.inputs if value is not None]
        if len(products) != 4 or any(each is None or not is_op(each, "Mul") for each in products):
            continue
        a, b, c, d = (tuple(each.inputs) for each in products if each is not None)
        for (x0, cos), (x1, sin) in product((a, a[::-1]), (b, b[::-1])):
            if not any({p, q} == {(x1, cos), (x0, sin)} for p, q in product((c, c[::-1]), (d, d[::-1]))):
                continue
            found = _halves(node, x0, x1, cos, sin, interleave=neighbours)
            if found is not None:
                return found
    return None


def _halves(
    node: ir.Node,
    x0: ir.Value | None,
    x1: ir.Value | None,
    cos: ir.Value | None,
    sin: ir.Value | None,
    *,
    interleave: bool,
) -> _Rotation | None:
    cos_factor, sin_factor = factor_of(cos, "none"), factor_of(sin, "none")
    if x0 is None or x1 is None or cos_factor is None or sin_factor is None:
        return None
    if cos_factor.heads_axis != sin_factor.heads_axis or not same_dims(x0, x1) or not _half_fits(x0):
        return None
    first, second = cut_of(x0), cut_of(x1)
    whole = first.whole if first is not None and second is not None and first.whole is second.whole else None
    if first is not None and second is not None and whole is not None:
        if interleave and _neighbours(first, second):
            return _Rotation(node, (whole,), cos_factor, sin_factor, True)
        if not interleave and _apart(first, second):
            return _Rotation(node, (whole,), cos_factor, sin_factor, False)
    # Halves that come from elsewhere, such as every other element: put side by side they are what is rotated.
    return None if interleave else _Rotation(node, (x0, x1), cos_factor, sin_factor, False)


def _fits(x: ir.Value) -> bool:
    size = static_dim(x, -1)
    return rank(x) == 4 and size is not None and size % 2 == 0


def _half_fits(x: ir.Value) -> bool:
    return rank(x) == 4 and static_dim(x, -1) is not None


def _replace(edit: Editor, rotation: _Rotation) -> None:
    place, old, x = rotation.node, rotation.node.outputs[0], rotation.parts[0]
    if len(rotation.parts) == 2:
        (whole,) = edit.before(place, "Concat", list(rotation.parts), {"axis": -1})
        copy_type(x, whole)
        whole.shape = ir.Shape([*list(x.shape or ())[:-1], 2 * (static_dim(x, -1) or 0)])
        x = whole
    factors = [for_every_row(edit, place, half_size(edit, place, each), x) for each in (rotation.cos, rotation.sin)]
    attributes = {"interleaved": int(rotation.interleaved)}
    if rotation.cos.heads_axis == 1:
        (new,) = edit.before(place, "RotaryEmbedding", [x, *factors], attributes)
    else:
        new = _heads_behind(edit, place, x, factors, attributes)
    copy_type(old, new)
    new.shape = old.shape
    replace_value(old, new)


def _heads_behind(
    edit: Editor, place: ir.Node, x: ir.Value, factors: list[ir.Value], attributes: dict[str, int]
) -> ir.Value:
    """For x (B, S, H, D): RotaryEmbedding takes it as (B, S, H * D) with the number of heads as an attribute."""
    heads, size = static_dim(x, 2), static_dim(x, 3)
    if heads is None or size is None:
        (turned,) = edit.before(place, "Transpose", [x], {"perm": [0, 2, 1, 3]})
        (rotated,) = edit.before(place, "RotaryEmbedding", [turned, *factors], attributes)
        return edit.before(place, "Transpose", [rotated], {"perm": [0, 2, 1, 3]})[0]
    flat, full = edit.ints(0, 0, heads * size), edit.ints(0, 0, heads, size)
    (packed,) = edit.before(place, "Reshape", [x, flat])
    copy_type(x, packed)
    packed.shape = ir.Shape([*list(x.shape or ())[:2], heads * size])
    (rotated,) = edit.before(place, "RotaryEmbedding", [packed, *factors], {**attributes, "num_heads": heads})
    copy_type(x, rotated)
    rotated.shape = packed.shape
    return edit.before(place, "Reshape", [rotated, full])[0]
