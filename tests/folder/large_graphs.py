# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Ways to make a graph large: each adds about as many nodes, or other parts, as it is told to a small model."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

OPSETS = [helper.make_opsetid("", 24), helper.make_opsetid("local", 1)]


def chain(model: onnx.ModelProto, count: int) -> None:
    model.graph.node.extend(
        helper.make_node("Identity", [f"c{i - 1}" if i else "input_ids"], [f"c{i}"]) for i in range(count)
    )


def chain_to_the_logits(model: onnx.ModelProto, count: int) -> None:
    maker = next(node for node in model.graph.node if "logits" in node.output)
    maker.output[0] = "c0"
    model.graph.node.extend(helper.make_node("Identity", [f"c{i}"], [f"c{i + 1}"]) for i in range(count - 1))
    model.graph.node.append(helper.make_node("Identity", [f"c{count - 1}"], ["logits"]))


def branches(model: onnx.ModelProto, count: int) -> None:
    model.graph.initializer.append(helper.make_tensor("condition", TensorProto.BOOL, [], [True]))
    for index in range(count // 3):
        graphs = []
        for name in (f"x{index}", f"y{index}"):
            node = helper.make_node("Constant", [], [name], value_int=1)
            value = helper.make_tensor_value_info(name, TensorProto.INT64, [])
            graphs.append(helper.make_graph([node], name, [], [value]))
        model.graph.node.append(
            helper.make_node("If", ["condition"], [f"i{index}"], then_branch=graphs[0], else_branch=graphs[1])
        )


def nested_functions(model: onnx.ModelProto, count: int) -> None:
    """Each calls the one before twice, so that one call becomes ``count`` nodes."""
    body = [helper.make_node("Identity", ["x"], ["y"])]
    for level in range(count.bit_length()):
        model.functions.append(helper.make_function("local", f"F{level}", ["x"], ["y"], body, OPSETS))
        body = [
            helper.make_node(f"F{level}", ["x"], ["t"], domain="local"),
            helper.make_node(f"F{level}", ["t"], ["y"], domain="local"),
        ]
    model.opset_import.append(OPSETS[1])
    last = model.functions[-1].name
    model.graph.node.append(helper.make_node(last, ["input_ids"], ["called"], domain="local"))


def many_calls(model: onnx.ModelProto, count: int) -> None:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.append(helper.make_function("local", "F", ["x"], ["y"], body, OPSETS))
    model.opset_import.append(OPSETS[1])
    for i in range(count):
        model.graph.node.append(helper.make_node("F", [f"c{i - 1}" if i else "input_ids"], [f"c{i}"], domain="local"))


def unused_functions(model: onnx.ModelProto, count: int) -> None:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.extend(helper.make_function("local", f"F{i}", ["x"], ["y"], body, OPSETS) for i in range(count))


def deep_functions(model: onnx.ModelProto, count: int) -> None:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    for i in range(count):
        model.functions.append(helper.make_function("local", f"F{i}", ["x"], ["y"], body, OPSETS))
        body = [helper.make_node(f"F{i}", ["x"], ["y"], domain="local")]


def wide_fan_out(model: onnx.ModelProto, count: int) -> None:
    model.graph.node.extend(helper.make_node("Identity", ["input_ids"], [f"c{i}"]) for i in range(count))


def wide_fan_in(model: onnx.ModelProto, count: int) -> None:
    model.graph.node.extend(helper.make_node("Constant", [], [f"c{i}"], value_int=1) for i in range(count))
    model.graph.node.append(helper.make_node("Sum", [f"c{i}" for i in range(count)], ["sum"]))


def many_weights(model: onnx.ModelProto, count: int) -> None:
    model.graph.initializer.extend(helper.make_tensor(f"w{i}", TensorProto.FLOAT, [1], [1.0]) for i in range(count))


def many_inputs(model: onnx.ModelProto, count: int) -> None:
    model.graph.input.extend(helper.make_tensor_value_info(f"u{i}", TensorProto.INT64, ["a"]) for i in range(count))


def many_outputs(model: onnx.ModelProto, count: int) -> None:
    wide_fan_out(model, count)
    model.graph.output.extend(helper.make_tensor_value_info(f"c{i}", TensorProto.INT64, ["a"]) for i in range(count))


def constants_of_constants(model: onnx.ModelProto, count: int) -> None:
    """A value that follows from weights in 12 ** 8 ways, asked for by every node."""
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
    for i in range(8):
        model.graph.node.append(helper.make_node("Concat", [f"k{i - 1}" if i else "one"] * 12, [f"k{i}"], axis=0))
    model.graph.node.extend(helper.make_node("MatMul", ["input_ids", "k7"], [f"m{i}"]) for i in range(count))


def transposed_weights(model: onnx.ModelProto, count: int) -> None:
    model.graph.initializer.append(helper.make_tensor("table", TensorProto.FLOAT, [2, 2], [1.0] * 4))
    model.graph.node.extend(
        helper.make_node("Transpose", [f"t{i - 1}" if i else "table"], [f"t{i}"]) for i in range(count)
    )
    model.graph.node.append(helper.make_node("Gather", [f"t{count - 1}", "input_ids"], ["gathered"]))
    model.graph.node.append(helper.make_node("Gather", ["t6", "input_ids"], ["gathered.again"]))


def keys_from_afar(model: onnx.ModelProto, count: int) -> None:
    """Attention nodes whose keys come through one long chain."""
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    scatter = next(node for node in model.graph.node if node.op_type == "TensorScatter")
    for i in range(count // 2):
        model.graph.node.append(helper.make_node("Identity", [f"c{i - 1}" if i else scatter.output[0]], [f"c{i}"]))
    for i in range(count // 2):
        inputs = [attention.input[0], f"c{count // 2 - 1}", attention.input[2]]
        model.graph.node.append(helper.make_node("Attention", inputs, [f"a{i}"], q_num_heads=4, kv_num_heads=2))


def many_scores(model: onnx.ModelProto, count: int) -> None:
    """Products of one cache that all meet in one node with many readers."""
    scatter = next(node for node in model.graph.node if node.op_type == "TensorScatter")
    half = count // 2
    model.graph.node.extend(helper.make_node("MatMul", [scatter.output[0]] * 2, [f"m{i}"]) for i in range(half))
    model.graph.node.append(helper.make_node("Concat", [f"m{i}" for i in range(half)], ["all"], axis=1))
    model.graph.node.extend(helper.make_node("Shape", ["all"], [f"s{i}"]) for i in range(half))


def shapes_of_the_past(model: onnx.ModelProto, count: int) -> None:
    """Many Shape nodes of one cache input that lead into one long chain."""
    past = next(value.name for value in model.graph.input if "cache" in value.name or "past" in value.name)
    half = count // 2
    model.graph.node.extend(helper.make_node("Shape", [past], [f"s{i}"]) for i in range(half))
    model.graph.node.append(helper.make_node("Concat", [f"s{i}" for i in range(half)], ["c0"], axis=0))
    model.graph.node.extend(helper.make_node("Abs", [f"c{i}"], [f"c{i + 1}"]) for i in range(half))


def long_shape(model: onnx.ModelProto, count: int) -> None:
    model.graph.initializer.append(TensorProto(name="long", data_type=1, dims=[2**62] * count))


def constants(model: onnx.ModelProto, count: int) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    model.graph.node.extend(helper.make_node("Constant", [], [f"k{i}"], value=tensor) for i in range(count))


def shapes_of_shapes(model: onnx.ModelProto, count: int) -> None:
    """What exporters write for a reshape, one after the other."""
    model.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT64, [1], [0]))
    for i in range(count // 4):
        value = f"d{i - 1}" if i else "input_ids"
        model.graph.node.append(helper.make_node("Shape", [value], [f"a{i}"]))
        model.graph.node.append(helper.make_node("Gather", [f"a{i}", "zero"], [f"b{i}"]))
        model.graph.node.append(helper.make_node("Unsqueeze", [f"b{i}", "zero"], [f"c{i}"]))
        model.graph.node.append(helper.make_node("Expand", ["input_ids", f"c{i}"], [f"d{i}"]))


def wide_node(model: onnx.ModelProto, count: int) -> None:
    past = past_of(model)
    model.graph.node.append(helper.make_node("Concat", [past] * count, ["wide"], axis=1))
    model.graph.node.append(helper.make_node("Split", ["wide"], [f"s{i}" for i in range(count)], num_outputs=count))


def value_infos(model: onnx.ModelProto, count: int) -> None:
    model.graph.value_info.extend(helper.make_tensor_value_info(f"v{i}", 1, ["a", 1]) for i in range(count))


def properties(model: onnx.ModelProto, count: int) -> None:
    for place in (model.metadata_props, model.graph.node[0].metadata_props):
        place.extend(onnx.StringStringEntryProto(key=f"k{i}", value="v") for i in range(count))


def attributes(model: onnx.ModelProto, count: int) -> None:
    model.graph.node[0].attribute.extend(helper.make_attribute(f"k{i}", 1) for i in range(count))


def imports(model: onnx.ModelProto, count: int) -> None:
    model.opset_import.extend(helper.make_opsetid(f"d{i}", 1) for i in range(count))


def deep_branches(model: onnx.ModelProto, count: int) -> None:
    """If in If, 20 levels, many times."""
    model.graph.initializer.append(helper.make_tensor("condition", TensorProto.BOOL, [], [True]))
    node = helper.make_node("Identity", ["input_ids"], ["t"])
    for level in range(20):
        value = helper.make_tensor_value_info(f"t{level}", TensorProto.INT64, [])
        node.output[0] = value.name
        other = helper.make_node("Identity", ["input_ids"], [value.name])
        graphs = [helper.make_graph([inner], value.name, [], [value]) for inner in (node, other)]
        node = helper.make_node("If", ["condition"], ["t"], then_branch=graphs[0], else_branch=graphs[1])
    for i in range(min(count, 50_000) // 41):
        node.output[0] = f"top{i}"
        model.graph.node.append(node)


def loops(model: onnx.ModelProto, count: int) -> None:
    model.graph.initializer.append(helper.make_tensor("once", TensorProto.INT64, [], [1]))
    model.graph.initializer.append(helper.make_tensor("condition", TensorProto.BOOL, [], [True]))
    for i in range(min(count // 3, 50_000)):
        nodes = [helper.make_node("Identity", [f"{name}{i}"], [f"{name}o{i}"]) for name in "cx"]
        inputs = [
            helper.make_tensor_value_info(f"{name}{i}", kind, []) for name, kind in (("n", 7), ("c", 9), ("x", 7))
        ]
        outputs = [helper.make_tensor_value_info(f"{name}o{i}", kind, []) for name, kind in (("c", 9), ("x", 7))]
        body = helper.make_graph(nodes, "body", inputs, outputs)
        model.graph.node.append(helper.make_node("Loop", ["once", "condition", "input_ids"], [f"l{i}"], body=body))


def products_after_attention(model: onnx.ModelProto, count: int) -> None:
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    model.graph.initializer.append(helper.make_tensor("square", TensorProto.FLOAT, [2, 2], [1.0] * 4))
    first = attention.output[0]
    model.graph.node.extend(
        helper.make_node("MatMul", [f"m{i - 1}" if i else first, "square"], [f"m{i}"]) for i in range(count)
    )


def attention_of_attention(model: onnx.ModelProto, count: int) -> None:
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    for i in range(count):
        node = onnx.NodeProto()
        node.CopyFrom(attention)
        node.input[0] = f"n{i - 1}" if i else attention.output[0]
        node.output[0] = f"n{i}"
        model.graph.node.append(node)


def dequantized(model: onnx.ModelProto, count: int) -> None:
    model.graph.initializer.append(helper.make_tensor("integers", TensorProto.INT8, [2, 2], [1, 2, 3, 4]))
    model.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0]))
    for i in range(count // 2):
        model.graph.node.append(helper.make_node("DequantizeLinear", ["integers", "scale"], [f"q{i}"]))
        model.graph.node.append(helper.make_node("MatMul", ["input_ids", f"q{i}"], [f"p{i}"]))


def decomposed_attention(model: onnx.ModelProto, count: int) -> None:
    """MatMul, Softmax, MatMul of one cache, each from the one before."""
    cache = next(node for node in model.graph.node if node.op_type == "TensorScatter").output[0]
    for i in range(count // 3):
        model.graph.node.append(helper.make_node("MatMul", [f"z{i - 1}" if i else "input_ids", cache], [f"x{i}"]))
        model.graph.node.append(helper.make_node("Softmax", [f"x{i}"], [f"y{i}"]))
        model.graph.node.append(helper.make_node("MatMul", [f"y{i}", cache], [f"z{i}"]))


def ladder(model: onnx.ModelProto, count: int) -> None:
    """Each node reads the two before: as many ways as Fibonacci numbers."""
    model.graph.node.append(helper.make_node("Identity", ["input_ids"], ["r0"]))
    model.graph.node.append(helper.make_node("Identity", ["input_ids"], ["r1"]))
    model.graph.node.extend(helper.make_node("Add", [f"r{i}", f"r{i + 1}"], [f"r{i + 2}"]) for i in range(count))


def pasts_that_grow(model: onnx.ModelProto, count: int) -> None:
    past = past_of(model)
    model.graph.node.extend(
        helper.make_node("Concat", [past, f"g{i - 1}" if i else past], [f"g{i}"], axis=2) for i in range(count)
    )


def long_way_to_a_mask(model: onnx.ModelProto, count: int) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    attention = next(node for node in nodes if node.op_type == "Attention")
    while len(attention.input) < 4:
        attention.input.append("")
    attention.input[3] = f"w{count - 1}"
    del model.graph.node[:]
    model.graph.node.extend(
        helper.make_node("Add", [f"w{i - 1}" if i else "nonpad_kv_seqlen"] * 2, [f"w{i}"]) for i in range(count)
    )
    model.graph.node.extend(nodes)


def outside_weights(model: onnx.ModelProto, count: int) -> None:
    for i in range(count):
        tensor = model.graph.initializer.add(name=f"e{i}", data_type=1, dims=[1], data_location=1)
        for key, value in (("location", "weights"), ("offset", "0"), ("length", "4")):
            tensor.external_data.add(key=key, value=value)


def sparse_weights(model: onnx.ModelProto, count: int) -> None:
    for i in range(count):
        model.graph.sparse_initializer.add().values.name = f"e{i}"


def past_of(model: onnx.ModelProto) -> str:
    return next(value.name for value in model.graph.input if "past" in value.name)


KINDS = (
    *(
        chain,
        chain_to_the_logits,
        branches,
        nested_functions,
        many_calls,
        unused_functions,
        deep_functions,
        wide_fan_out,
    ),
    *(wide_fan_in, many_weights, many_inputs, many_outputs, constants_of_constants, transposed_weights),
    *(keys_from_afar, many_scores, shapes_of_the_past, long_shape, constants, shapes_of_shapes, wide_node),
    *(value_infos, properties, attributes, imports, deep_branches, loops, products_after_attention),
    *(attention_of_attention, dequantized, decomposed_attention, ladder, pasts_that_grow, long_way_to_a_mask),
    *(outside_weights, sparse_weights),
)
