# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of a folder's files that know their form: protobuf messages, JSON trees, templates, bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

__all__ = ["change_folder"]

_INTEGERS = (
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
_TEXTS = (
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
_JSON_LEAVES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 10**400, 1.5, -1e308, float("nan"), float("inf"), "", "x"),
    *(
        "<|eos|>",
        "\ud800",
        "{{ messages }}",
        "a\0b",
        "a" * 5000,
        [],
        {},
        [[]],
        [0],
        ["x"],
        {"content": 3},
        [10**9] * 50,
    ),
)
_TEMPLATE_PIECES = (
    *(
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "for m in messages",
        "endfor",
        "if",
        "endif",
        "set a = messages",
        "macro f(x)",
        "endmacro",
    ),
    *(
        "messages",
        "range(99)",
        "a ~ a",
        "f(f)",
        "|tojson",
        "|join",
        "|list",
        "loop.index",
        "namespace(x=1)",
        "raise_exception('x')",
    ),
    *(
        "strftime_now('%Y')",
        "self",
        "caller()",
        "''.join([])",
        "1/0",
        "9**9",
        "'x' * 99",
        "m.role",
        "m['content']",
        "[::-1]",
        "\n",
    ),
)
_GENERATION_FIELDS = (
    *(
        "max_new_tokens",
        "max_length",
        "min_new_tokens",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
    ),
    *(
        "repetition_penalty",
        "presence_penalty",
        "no_repeat_ngram_size",
        "logit_bias",
        "bad_words_ids",
        "json_schema",
        "regex",
    ),
    *(
        "stop_strings",
        "stop_token_ids",
        "eos_token_id",
        "num_beams",
        "num_beam_groups",
        "num_return_sequences",
        "logprobs",
    ),
    *("max_time", "seed", "early_stopping", "length_penalty", "diversity_penalty", "echo", "ignore_eos"),
)
_FIELDS: dict[str, tuple[str, ...]] = {
    "config.json": (
        "vocab_size",
        "max_position_embeddings",
        "eos_token_id",
        "text_config",
        "n_positions",
        "seq_length",
    ),
    "generation_config.json": _GENERATION_FIELDS,
    "tokenizer_config.json": (
        *(
            "bos_token",
            "eos_token",
            "pad_token",
            "add_bos_token",
            "add_eos_token",
            "added_tokens_decoder",
            "chat_template",
        ),
        *("image_token", "model_max_length"),
    ),
    "special_tokens_map.json": ("bos_token", "eos_token", "additional_special_tokens"),
    "tokenizer.json": (
        "version",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
        "truncation",
    ),
}


def change_folder(folder: Path, random: Random) -> str:
    """Changes one file of a folder, sometimes two, and says how.

    Args:
        folder: A copy that may be changed.
        random: Decides everything.
    """
    kinds: tuple[tuple[Callable[[Path, Random], str], int], ...] = (
        (_graph, 60),
        (_external, 6),
        (_json, 20),
        (_template, 6),
        (_bytes, 8),
    )
    makers, weights = zip(*kinds, strict=True)
    count = 2 if random.random() < 0.1 else 1
    return "; ".join(maker(folder, random) for maker in random.choices(makers, weights, k=count))


# The graph.


def _graph(folder: Path, random: Random) -> str:
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
        return random.choice(_TEXTS)
    number = random.choice(_INTEGERS) if random.random() < 0.7 else random.randint(-10, 70)
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
        random.choice(_INTEGERS),
        random.choice(_FLOATS),
        random.choice(_TEXTS),
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
            tensor.shape.dim[at].dim_value = random.choice(_INTEGERS)
        elif action < 0.8:
            tensor.shape.dim[at].dim_param = random.choice(_TEXTS)
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


# The other files.


def _external(folder: Path, random: Random) -> str:
    """The data file, or where weights say that they lie in it."""
    path = folder / "model.onnx"
    files = [file for file in folder.iterdir() if file.suffix not in (".json", ".onnx", ".jinja")]
    if files and random.random() < 0.4:
        content = files[0].read_bytes()
        files[0].write_bytes(content[: random.randrange(len(content) + 1)] if random.random() < 0.7 else content * 2)
        return "external: file"
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError:
        return "external: left"
    if model.graph.initializer:
        tensor = random.choice(model.graph.initializer)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        key = random.choice(("location", "offset", "length", "checksum", "odd"))
        value = random.choice((*_TEXTS, *map(str, _INTEGERS), files[0].name if files else "config.json", "."))
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
                break
        else:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return "external: entry"


def _json(folder: Path, random: Random) -> str:
    name = random.choice([name for name in _FIELDS if name != "special_tokens_map.json" or random.random() < 0.3])
    path = folder / name
    try:
        tree = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        return f"{name}: left"
    if not isinstance(tree, dict):
        return f"{name}: left"
    if random.random() < 0.6:
        field = random.choice(_FIELDS[name])
        tree[field] = _tree(random)
        # A template of its own file hides the one in the configuration.
        if field == "chat_template":
            (folder / "chat_template.jinja").unlink(missing_ok=True)
            if random.random() < 0.7:
                tree[field] = _template_text(random)
        done = field
    else:
        done = _change_inside(tree, random)
    path.write_bytes(json.dumps(tree).encode())
    return f"{name}: {done}"


def _tree(random: Random) -> Any:
    if random.random() < 0.6:
        return random.choice(_JSON_LEAVES)
    if random.random() < 0.03:
        deep: Any = 0
        for _ in range(random.choice((50, 90, 300, 900))):
            deep = [deep]
        return deep
    if random.random() < 0.5:
        return [_tree(random) for _ in range(random.randrange(4))]
    return {str(random.choice((*_TEXTS, 0, 5))): _tree(random) for _ in range(random.randrange(4))}


def _change_inside(tree: Any, random: Random) -> str:
    """A value somewhere down in the tree."""
    way = ""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return way + " empty"
        key = random.choice(keys)
        way += f"/{str(key)[:20]}"
        if isinstance(tree[key], (dict, list)) and tree[key] and random.random() < 0.75:
            tree = tree[key]
        elif random.random() < 0.3:
            del tree[key]
            return way + " deleted"
        else:
            tree[key] = _tree(random)
            return way


def _template_text(random: Random) -> str:
    return " ".join(random.choice(_TEMPLATE_PIECES) for _ in range(random.randrange(1, 14)))


def _template(folder: Path, random: Random) -> str:
    path = folder / "chat_template.jinja"
    text = path.read_text(encoding="utf-8") if path.exists() and random.random() < 0.5 else ""
    at = random.randrange(len(text) + 1)
    path.write_text(text[:at] + _template_text(random) + text[at:], encoding="utf-8")
    return "template"


def _bytes(folder: Path, random: Random) -> str:
    """A stretch of bytes of any file."""
    path = random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    content = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(content) + 1)
        content[at : at + random.choice((0, 1, 1, 4, 30))] = random.randbytes(random.choice((0, 1, 1, 2, 8)))
    if random.random() < 0.1:
        del content[random.randrange(len(content) + 1) :]
    path.write_bytes(content)
    return f"{path.name}: bytes"
