# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What every change of the cache does to a graph, once it is known what the graph computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from genai_iface.graph._edit import Editor, copy_type, replace_value
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import describe, is_op, rank, unsupported
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature, InputRole
from genai_iface.transform.convert._cached_attention import AttentionRead, CacheLayer
from genai_iface.transform.convert._step_positions import StepValues, replace_positions

__all__ = ["CacheSurgery", "Converted", "LayerNote", "finished", "layer_notes"]

_KEEP = "Keep the model as it is, or export it again with the inputs attention_mask and position_ids."


@dataclass(frozen=True, slots=True)
class LayerNote:
    """What was found in one layer.

    Attributes:
        layer: The index of the layer, from 0.
        form: How its attention was written.
        mask: "causal" or "window N".
        readers: Attentions that read this cache.
    """

    layer: int
    form: str
    mask: str
    readers: int = 1


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted model.

    Attributes:
        model: The model, changed in place.
        signature: Its new signature; that of the source where the inputs are the same and mean the same.
        layers: What was found, by layer.
        nodes_before, nodes_after: Sizes of the graph.
        removed_inputs, added_inputs: Names of graph inputs, those of the cache left out.
        difference: The largest difference of a logit from the source's, as a part of the largest; None if not compared.
        unverified: Why it could not be compared.
    """

    model: ir.Model
    signature: GraphSignature
    layers: tuple[LayerNote, ...]
    nodes_before: int
    nodes_after: int
    removed_inputs: tuple[str, ...]
    added_inputs: tuple[str, ...]
    difference: float | None = None
    unverified: str = ""


def layer_notes(layers: Sequence[CacheLayer]) -> tuple[LayerNote, ...]:
    """What was read in each layer."""
    return tuple(
        LayerNote(
            layer.index,
            layer.readers[0].form,
            ", ".join(dict.fromkeys(str(reader.mask) for reader in layer.readers)),
            len(layer.readers),
        )
        for layer in layers
    )


def finished(model: ir.Model, layers: Sequence[LayerNote], nodes_before: int, source: GraphSignature) -> Converted:
    """Tidies a graph after surgery, derives its signature, and says what happened."""
    CommonSubexpressionEliminationPass()(model)
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                # It may name dimensions that are gone.
                output.shape = None
    infer_shapes(model)
    signature = derive_signature(model)
    after = list(signature.inputs.values())
    return Converted(
        model=model,
        signature=signature,
        layers=tuple(layers),
        nodes_before=nodes_before,
        nodes_after=len(model.graph),
        removed_inputs=tuple(name for name in source.inputs.values() if name not in after),
        added_inputs=tuple(name for name in after if name not in source.inputs.values()),
    )


class CacheSurgery:
    """Adds nodes, replaces attention and positions, and takes inputs away.

    Args:
        model: The model that is changed in place.
        signature: The signature that was derived from the graph.
        found: Its index values.
        prefix: What new names begin with.
    """

    def __init__(self, model: ir.Model, signature: GraphSignature, found: StepValues, prefix: str) -> None:
        self.model, self.graph, self.signature, self.found = model, model.graph, signature, found
        self.axis = 2 if signature.cache.layout == "bnsh" else 1
        self.values = ir.convenience.create_value_mapping(model.graph)
        self.edit = Editor(model.graph, prefix)
        self.ids = self.values[signature.inputs["input_ids"]]
        self.place = self._new_place()
        self.batch = "batch" if self.ids.shape is None else str(self.ids.shape[0])

    def _new_place(self) -> ir.Node:
        """A node that others are put before; it goes when unused nodes do, because nothing reads it."""
        place = ir.node("Identity", [self.ids])
        self.graph.insert_before(self.graph[0], place)
        return place

    def add(self, kind: str, inputs: Sequence[ir.Value | None], **attributes: int | list[int]) -> ir.Value:
        """A node before everything else of the graph."""
        return self.edit.before(self.place, kind, inputs, attributes)[0]

    def number(self, value: int) -> ir.Value:
        """A constant int64 scalar."""
        return self.add("Constant", [], value_int=value)

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """An axis of a value as an int64 scalar."""
        return self.add("Squeeze", [self.add("Shape", [value], start=axis, end=axis + 1), self.edit.ints(0)])

    def numbers(self, begin: ir.Value, end: ir.Value) -> ir.Value:
        """begin, begin + 1, ..., end - 1."""
        return self.add("Range", [begin, end, self.number(1)])

    def set_length(self, value: ir.Value, length: int | str, heads: int, size: int) -> None:
        """Gives a cache tensor its shape."""
        sizes = [heads, length, size] if self.axis == 2 else [length, heads * size]
        value.shape = ir.Shape([self.batch, *sizes])

    def laid_out(self, place: ir.Node, new: ir.Value, heads: int, size: int) -> ir.Value:
        """New tokens in the layout of the cache."""
        if self.axis == 1 or rank(new) != 3:
            return new
        (split,) = self.edit.before(place, "Reshape", [new, self.edit.ints(0, 0, heads, size)])
        return self.edit.before(place, "Transpose", [split], {"perm": [0, 2, 1, 3]})[0]

    def attention(
        self,
        layer: CacheLayer,
        reader: AttentionRead,
        caches: tuple[ir.Value, ir.Value],
        *,
        mask: ir.Value | None,
        nonpad: ir.Value | None,
        is_causal: bool,
    ) -> None:
        """Puts one Attention in the place of what read the cache."""
        edit, spec, place = self.edit, layer.spec, reader.end
        heads, axes = reader.num_heads, 4 if self.axis == 2 else 3
        query = reader.query
        if reader.rank == 3 and axes == 4:
            (query,) = edit.before(place, "Reshape", [query, edit.ints(0, 0, heads, spec.key_head_dim)])
            (query,) = edit.before(place, "Transpose", [query], {"perm": [0, 2, 1, 3]})
        elif reader.rank == 4 and axes == 3:
            (query,) = edit.before(place, "Transpose", [query], {"perm": [0, 2, 1, 3]})
            (query,) = edit.before(place, "Reshape", [query, edit.ints(0, 0, heads * spec.key_head_dim)])
        attributes: dict[str, int | float] = {"is_causal": 1} if is_causal else {}
        if reader.scale != spec.key_head_dim**-0.5:
            attributes["scale"] = reader.scale
        if reader.softcap:
            attributes["softcap"] = reader.softcap
        if reader.softmax_precision:
            attributes["softmax_precision"] = reader.softmax_precision
        if axes == 3:
            attributes |= {"q_num_heads": heads, "kv_num_heads": spec.num_kv_heads}
        inputs: list[ir.Value | None] = [query, *caches, mask, None, None, nonpad]
        while inputs[-1] is None:
            inputs.pop()
        (mixed,) = edit.before(place, "Attention", inputs, attributes)
        copy_type(reader.query, mixed)
        if reader.rank == 3 and axes == 4:
            (mixed,) = edit.before(place, "Transpose", [mixed], {"perm": [0, 2, 1, 3]})
            (mixed,) = edit.before(place, "Reshape", [mixed, edit.ints(0, 0, heads * spec.value_head_dim)])
        elif reader.rank == 4 and axes == 3:
            (mixed,) = edit.before(place, "Reshape", [mixed, edit.ints(0, 0, heads, spec.value_head_dim)])
            (mixed,) = edit.before(place, "Transpose", [mixed], {"perm": [0, 2, 1, 3]})
        copy_type(reader.query, mixed)
        replace_value(place.outputs[0], mixed)

    def finish(self, positions: ir.Value, gone: Sequence[InputRole]) -> None:
        """Feeds new positions and removes inputs.

        Raises:
            UnsupportedModelError: Something that is neither a mask nor positions needs one of these inputs, or the
                number of past tokens.
        """
        replace_positions(self.edit, self.place, self.found, positions, _leading_to(self.graph.outputs))
        RemoveUnusedNodesPass()(self.model)
        names = [self.signature.inputs[role] for role in gone if role in self.signature.inputs]
        self._check_what_is_left(positions, names)
        self.place = self._new_place()
        for name in names:
            self._drop(self.values[name])
        RemoveUnusedNodesPass()(self.model)

    def _check_what_is_left(self, positions: ir.Value, names: Sequence[str]) -> None:
        """Nothing may still depend on how many past tokens there were, but by way of the new positions."""
        index, changing = self.found.shapes, self.found.changing
        renewed = _follows([positions])
        by_value = _follows([self.values[name] for name in names]) - renewed
        for node in self.graph:
            for source in node.inputs:
                if source is None or source in renewed or not (source in changing or source in by_value):
                    continue
                if any(output not in index or output in renewed for output in node.outputs):
                    raise unsupported(
                        f"{source.name!r} follows from the length of the past or the attention mask and still feeds "
                        f"the {describe(node)}, which is neither a mask nor positions",
                        _KEEP,
                    )

    def _drop(self, value: ir.Value) -> None:
        """Only its shape is still read, and of that only the batch size matters."""
        axes = rank(value) or 1
        for node, _ in tuple(value.uses()):
            if not is_op(node, "Shape"):
                raise unsupported(f"The shape that the {describe(node)} gives still needs {value.name!r}", _KEEP)
            shape = self.add("Shape", [self.ids], start=0, end=axes)
            given = [node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end")]
            begin, end, _ = slice(*given).indices(axes)
            if (begin, end) != (0, axes):
                shape = self.add("Slice", [shape, self.edit.ints(begin), self.edit.ints(end)])
            ir.convenience.replace_all_uses_with(node.outputs[0], shape)
        self.graph.inputs.remove(value)


def _leading_to(values: Iterable[ir.Value]) -> set[ir.Node]:
    """The nodes that the values follow from."""
    found: set[ir.Node] = set()
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(source for source in node.inputs if source is not None)
    return found


def _follows(values: list[ir.Value]) -> set[ir.Value]:
    """The values, and everything that follows from more than their shapes."""
    found, pending = set(values), list(values)
    while pending:
        for node, _ in pending.pop().uses():
            if is_op(node, "Shape"):
                continue
            for output in node.outputs:
                if output not in found:
                    found.add(output)
                    pending.append(output)
    return found
