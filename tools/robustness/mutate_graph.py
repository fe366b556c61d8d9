# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of a graph that know its form: any field of any message, and what a graph is made of."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

__all__ = ["INTEGERS", "TEXTS", "change_graph"]

INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    16,
    24,
    64,
    127,
    255,
    256,
    300,
    65536,
    2**31 - 1,
    -(2**31),
    2**31,
    2**40,
    2**63 - 1,
    -(2**63),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "x",
    "logits",
    "input_ids",
    "../x",
    "/etc/passwd",
    "a\0b",
    "\u00e9",
    "\U0001f600",
    "a" * 300,
    "{{",
    "-1",
    "0",
)
_OPERATORS = (
    *(
        "Identity",
        "Cast",
        "Concat",
        "Reshape",
        "Transpose",
        "Unsqueeze",
        "Squeeze",
        "Gather",
        "MatMul",
        "Gemm",
        "Softmax",
    ),
    *(
        "Shape",
        "TensorScatter",
        "Attention",
        "RotaryEmbedding",
        "RMSNormalization",
        "Constant",
        "If",
        "Loop",
        "Scan",
        "Add",
    ),
    *(
        "Mul",
        "Where",
        "Expand",
        "Slice",
        "Split",
        "DequantizeLinear",
        "QuantizeLinear",
        "GroupQueryAttention",
        "Range",
        "Div",
    ),
    *(
        "MatMulNBits",
        "GatherBlockQuantized",
        "SkipSimplifiedLayerNormalization",
        "SequenceAt",
        "Optional",
        "Outer",
        "Inner",
        "",
    ),
)
_DOMAINS = ("", "ai.onnx", "com.microsoft", "local", "ai.onnx.ml", "x")


def change_graph(folder: Path, random: Random) -> str:
    """Changes model.onnx in a few places and says how."""
    path = folder / "model.onnx"
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError:
        return "graph: left, it does not parse"
    done = []
    for _ in range(random.choices((1, 2, 3, 5), (6, 3, 2, 1))[0]):
        change = random.choice(_GRAPH_CHANGES)
        done.append(f"{change.__name__.strip('_')}({change(model, random)})")
    path.write_bytes(model.SerializeToString())
    return "graph: " + ", ".join(done)


def _any_node(model: onnx.ModelProto, random: Random) -> onnx.NodeProto:
    groups = [model.graph.node, *(function.node for function in model.functions)]
    for node in model.graph.node:
        groups += [attribute.g.node for attribute in node.attribute if attribute.HasField("g")]
    groups = [group for group in groups if len(group)]
    if not groups:
        groups = [[model.graph.node.add(op_type="Identity")]]
    found: onnx.NodeProto = random.choice(groups[0] if random.random() < 0.7 else random.choice(groups))
    return found


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    names = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    return [*names, *(name for node in graph.node for name in node.output)] or [""]


def _field(model: onnx.ModelProto, random: Random) -> str:
    """Any field of any message, found by walking down the descriptors."""
    message: Any = model if random.random() < 0.3 else _any_node(model, random)
    way = []
    for _ in range(12):
        fields = [field for field, value in message.ListFields()] or list(message.DESCRIPTOR.fields)
        if random.random() < 0.15:
            fields = list(message.DESCRIPTOR.fields)
        field = random.choice(fields)
        way.append(field.name)
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED
        value = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if not repeated:
                if random.random() < 0.1:
                    message.ClearField(field.name)
                    return ".".join(way) + " cleared"
                message = value
                continue
            action = random.random()
            if not len(value):
                value.add()
                return ".".join(way) + " added"
            at = random.randrange(len(value))
            if action < 0.1:
                del value[at]
                return ".".join(way) + " deleted"
            if action < 0.2:
                value.add().CopyFrom(value[at])
                return ".".join(way) + " doubled"
            message = value[at]
            continue
        _set_scalar(message, field, repeated, random)
        return ".".join(way)
    return ".".join(way) + " left"


def _set_scalar(message: Any, field: Any, repeated: bool, random: Random) -> None:
    new = _scalar(field, random)
    if not repeated:
        if random.random() < 0.15:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, new)
        return
    values = getattr(message, field.name)
    action = random.random()
    if len(values) and action < 0.6:
        values[random.randrange(len(values))] = new
    elif len(values) and action < 0.8:
        del values[random.randrange(len(values))]
    else:
        values.append(new)


def _scalar(field: Any, random: Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return random.choice([value.number for value in field.enum_type.values])
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return random.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(random.choice((0, 1, 4, 64)))
        return random.choice(TEXTS)
    number = random.choice(INTEGERS) if random.random() < 0.7 else random.randint(-10, 70)
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        number = abs(number)
    if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32):
        number = max(min(number, 2**31 - 1), -(2**31))
    return min(number, 2**63 - 1)


def _drop_node(model: onnx.ModelProto, random: Random) -> str:
    if not model.graph.node:
        return "none"
    at = random.randrange(len(model.graph.node))
    name = str(model.graph.node[at].op_type)
    del model.graph.node[at]
    return name


def _bypass_node(model: onnx.ModelProto, random: Random) -> str:
    """Takes a node out and joins its ends, so that the graph stays whole."""
    node = _any_node(model, random)
    if node.input and node.output:
        first, last = node.input[0], node.output[0]
        name = node.op_type
        node.Clear()
        node.op_type = "Identity"
        node.input.append(first)
        node.output.append(last)
        return name
    return "none"


def _double_node(model: onnx.ModelProto, random: Random) -> str:
    node = onnx.NodeProto()
    node.CopyFrom(_any_node(model, random))
    for index, name in enumerate(node.output):
        node.output[index] = f"{name}.again{random.randrange(99)}"
    model.graph.node.insert(random.randrange(len(model.graph.node) + 1), node)
    return node.op_type


def _swap_nodes(model: onnx.ModelProto, random: Random) -> str:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    if len(nodes) > 1:
        first, second = random.sample(range(len(nodes)), 2)
        nodes[first], nodes[second] = nodes[second], nodes[first]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return ""


def _operator(model: onnx.ModelProto, random: Random) -> str:
    node = _any_node(model, random)
    node.op_type = random.choice(_OPERATORS)
    if random.random() < 0.4:
        node.domain = random.choice(_DOMAINS)
    return node.op_type


def _edge(model: onnx.ModelProto, random: Random) -> str:
    node = _any_node(model, random)
    name = random.choice(_names(model)) if random.random() < 0.85 else ""
    action = random.random()
    if node.input and action < 0.6:
        node.input[random.randrange(len(node.input))] = name
    elif node.input and action < 0.75:
        del node.input[random.randrange(len(node.input))]
    else:
        node.input.append(name)
    return node.op_type


def _outputs(model: onnx.ModelProto, random: Random) -> str:
    node = _any_node(model, random)
    if node.output and random.random() < 0.5:
        del node.output[random.randrange(len(node.output))]
    else:
        node.output.append(f"more{random.randrange(99)}")
    return node.op_type


def _attribute(model: onnx.ModelProto, random: Random) -> str:
    node = _any_node(model, random)
    values: tuple[Any, ...] = (
        random.choice(INTEGERS),
        random.choice(_FLOATS),
        random.choice(TEXTS),
        [random.randint(-9, 9) for _ in range(random.randrange(1, 6))],
        [random.choice(_FLOATS)],
        onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [2], [0, 1]),
    )
    if node.attribute and random.random() < 0.8:
        attribute = random.choice(node.attribute)
        if random.random() < 0.2:
            attribute.ref_attr_name = "outer"
            return f"{node.op_type}.{attribute.name} refers"
        # The same type most often: such a graph gets further.
        same = {1: values[1], 2: values[0], 3: values[2], 7: values[3]}.get(attribute.type, values[0])
        attribute.CopyFrom(
            onnx.helper.make_attribute(attribute.name, same if random.random() < 0.7 else random.choice(values))
        )
        return f"{node.op_type}.{attribute.name}"
    name = random.choice(
        ("axis", "mode", "perm", "to", "scale", "is_causal", "block_size", "kv_num_heads", "q_num_heads", "value_ints")
    )
    node.attribute.append(onnx.helper.make_attribute(name, random.choice(values)))
    return f"{node.op_type}.{name} new"


def _value(model: onnx.ModelProto, random: Random) -> str:
    """The type or a dimension of an input or output."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    if not values:
        return "none"
    value = random.choice(values)
    tensor = value.type.tensor_type
    action = random.random()
    if action < 0.2:
        tensor.elem_type = random.randrange(0, 30)
    elif action < 0.3:
        value.type.Clear()
    elif action < 0.4:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    elif tensor.shape.dim:
        at = random.randrange(len(tensor.shape.dim))
        if action < 0.7:
            tensor.shape.dim[at].dim_value = random.choice(INTEGERS)
        elif action < 0.8:
            tensor.shape.dim[at].dim_param = random.choice(TEXTS)
        elif action < 0.9:
            del tensor.shape.dim[at]
        else:
            tensor.shape.dim.add().dim_value = random.randint(-1, 9)
    return str(value.name)


def _in_or_out(model: onnx.ModelProto, random: Random) -> str:
    values = model.graph.input if random.random() < 0.5 else model.graph.output
    if values and random.random() < 0.6:
        del values[random.randrange(len(values))]
        return "dropped"
    name = random.choice(_names(model))
    values.append(
        onnx.helper.make_tensor_value_info(name, random.choice((1, 7, 10)), ["B", random.choice((1, 2, "S"))])
    )
    return "added"


def _weight(model: onnx.ModelProto, random: Random) -> str:
    """The form of a weight; its data are made to fit most often, so that the graph gets further."""
    weights = model.graph.initializer
    if not weights:
        return "none"
    tensor = random.choice(weights)
    action = random.random()
    if action < 0.15:
        name = tensor.name
        weights.remove(tensor)
        return f"{name} dropped"
    if action < 0.3:
        tensor.data_type = random.randrange(0, 27)
        return f"{tensor.name} type"
    if action < 0.4:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
        return f"{tensor.name} cut"
    shape = [random.choice((0, 1, 1, 2, 3, 8, 16, 32)) for _ in range(random.randrange(0, 5))]
    if action < 0.6:
        tensor.dims[:] = shape if action < 0.5 else list(tensor.dims)[::-1]
        return f"{tensor.name} shape"
    size = 1
    for count in shape:
        size *= count
    kind = random.choice(
        (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    )
    if size < 100_000:
        new = onnx.helper.make_tensor(tensor.name, kind, shape, [random.choice((0, 1, 3)) for _ in range(size)])
        tensor.CopyFrom(new)
    return f"{tensor.name} {shape}"


def _opsets(model: onnx.ModelProto, random: Random) -> str:
    if model.opset_import and random.random() < 0.8:
        entry = random.choice(model.opset_import)
        if random.random() < 0.2:
            model.opset_import.remove(entry)
            return "dropped"
        entry.version = random.choice((*range(1, 30), -1, 2**40))
        return f"{entry.domain} {entry.version}"
    model.opset_import.append(onnx.helper.make_opsetid(random.choice(_DOMAINS), random.randrange(0, 30)))
    return "added"


def _function(model: onnx.ModelProto, random: Random) -> str:
    if not model.functions:
        return "none"
    function = random.choice(model.functions)
    action = random.random()
    if action < 0.3:
        model.functions.append(function)
        return "doubled"
    if action < 0.6:
        node = random.choice(function.node) if function.node else function.node.add()
        node.op_type, node.domain = random.choice(("Outer", "Inner")), "local"
        return "calls itself"
    names = function.input if action < 0.8 else function.output
    if names:
        names[random.randrange(len(names))] = random.choice(("x", "y", "a", "", "w"))
    return "renamed"


_GRAPH_CHANGES = (
    *(_field, _field, _field, _drop_node, _bypass_node, _double_node, _swap_nodes, _operator, _edge, _edge, _outputs),
    *(_attribute, _attribute, _value, _value, _in_or_out, _weight, _weight, _weight, _opsets, _function),
)
