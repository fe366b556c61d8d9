# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that the benchmarks run, and the folders that each stack's own tools make of them.

Ours come from ``build``, ``quantize`` and ``convert``, as a user's do. The checkpoints are Llamas, and decoders that
keep states, of realistic shapes with random weights, and the real models that tools.real_models has fetched. Everything
is made once and kept in a working folder; each step is finished under another name first.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tools.real_models.packages import MODELS, find

__all__ = [
    "CONTEXT",
    "NAMES",
    "SIZES",
    "Weights",
    "build_concat",
    "build_for_genai",
    "build_gguf",
    "build_standard",
    "build_uncounted",
    "make_checkpoint",
]

Weights: TypeAlias = Literal["fp32", "fp16", "int4", "int8"]

CONTEXT = 32768

SIZES: dict[str, dict[str, Any]] = {
    # For a look at whether a benchmark runs.
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
    },
    # The shape of SmolLM-135M.
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    # Two of its layers, and a small vocabulary: the cache of a token is to its work as in the whole.
    "135m-2l": {
        "vocab_size": 4096,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 2,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    # The shape of Llama 3.2 1B.
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    # The shape of Llama 3.1 8B.
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    # The layers of Qwen3.5 0.8B, half as many of them, and a smaller vocabulary.
    "qwen3.5": {
        "model_type": "qwen3_5_text",
        "vocab_size": 32768,
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "tie_word_embeddings": True,
    },
    # The shape of LFM2 350M.
    "lfm2": {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "hidden_size": 1024,
        "intermediate_size": 6656,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "layer_types": ["full_attention" if layer in (2, 5, 8, 10, 12, 14) else "conv" for layer in range(16)],
        "tie_word_embeddings": True,
    },
}


NAMES = (*SIZES, *MODELS)
"""What ``make_checkpoint`` can make: the shapes, and the real models."""


def make_checkpoint(size: str, folder: Path) -> Path:
    """A Transformers checkpoint by one of ``NAMES``: a real model, or a seeded random one with a byte-level tokenizer.

    Raises:
        SystemExit: The real model was not fetched.
    """
    if size in MODELS:
        return _once(folder / size, lambda path: _save_real(size, path))

    def make(path: Path) -> None:
        import torch
        import transformers
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        fields = {"model_type": "llama", **SIZES[size]}
        kind = fields.pop("model_type")
        config = transformers.AutoConfig.for_model(
            kind, **fields, max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2
        )
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
        alphabet = {byte: index for index, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)

    return _once(folder / f"llama-{size}", make)


def _save_real(name: str, path: Path) -> None:
    """The weights of a GGUF file as float32 safetensors, so that every stack reads the same numbers."""
    from genai_iface.build.checkpoint import load_network, open_checkpoint
    from genai_iface.build.gguf import parsed_once, write_tokenizer

    found = find(name)
    if found is None:
        raise SystemExit(f"{MODELS[name].file} is not there; fetch it with: python -m tools.real_models {name}")
    with parsed_once():
        load_network(open_checkpoint(found), "float32").network.save_pretrained(path)
        write_tokenizer(found, path)


def build_standard(checkpoint: Path, weights: Weights) -> Path:
    """The folder that ``build`` makes of a checkpoint, and for int4 and int8 what ``quantize`` makes of that."""
    kind = "fp16" if weights == "fp16" else "fp32"

    def make(path: Path) -> None:
        from genai_iface.build import BuildOptions, build

        # The faster backend: a benchmark's folder is verified like any other.
        options = BuildOptions(dtype="float16" if kind == "fp16" else "float32", verify_on="ort")
        build(checkpoint, path, options)

    plain = _once(checkpoint.with_name(f"{checkpoint.name}-standard-{kind}"), make)
    if weights not in ("int4", "int8"):
        return plain

    def quantize(path: Path) -> None:
        from genai_iface.transform.quantize import quantize_folder

        quantize_folder(plain, path, bits=4 if weights == "int4" else 8, block_size=32)

    return _once(checkpoint.with_name(f"{checkpoint.name}-standard-{weights}"), quantize)


def build_uncounted(checkpoint: Path, weights: Weights) -> Path:
    """The same folder of a decoder that keeps states, as a graph that is not told where padding begins.

    Raises:
        SystemExit: Its graph has no input "counts".
    """

    def make(path: Path) -> None:
        import onnx_ir as ir

        plain = build_standard(checkpoint, weights)
        model = ir.load(plain / "model.onnx")
        _drop_counts(model)
        shutil.copytree(plain, path, ignore=shutil.ignore_patterns("model.onnx*"))
        ir.save(model, path / "model.onnx", external_data="model.onnx.data")

    return _once(checkpoint.with_name(f"{checkpoint.name}-uncounted-{weights}"), make)


def _drop_counts(model: Any) -> None:
    """Takes out what hides padding: selections by the tokens that are real, and the gathers of new columns."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    counts = next((value for value in graph.inputs if value.name == "counts"), None)
    if counts is None:
        raise SystemExit("The graph has no input 'counts': the model keeps no states.")
    known = {counts}
    for node in list(graph):
        told = [index for index, value in enumerate(node.inputs) if value in known]
        if not told:
            continue
        (result,) = node.outputs
        if node.op_type == "Where":
            ir.convenience.replace_all_uses_with(result, node.inputs[1], replace_graph_outputs=True)
        elif node.op_type == "GatherElements":
            past = node.inputs[0].producer().inputs[0]
            (operator,) = [use.node for use in past.uses() if use.node.op_type == "CausalConvWithState"]
            name, result.name = result.name, f"{result.name}_gathered"
            operator.outputs[1].name = name
            operator.outputs[1].shape, operator.outputs[1].type = result.shape, result.type
            ir.convenience.replace_all_uses_with(result, operator.outputs[1], replace_graph_outputs=True)
        else:
            known.add(result)
    RemoveUnusedNodesPass()(model)
    graph.inputs.remove(counts)


def build_concat(checkpoint: Path) -> Path:
    """What ``convert`` makes of the float32 folder: past and present tensors that grow."""

    def make(path: Path) -> None:
        from genai_iface.transform.convert import convert_folder

        convert_folder(build_standard(checkpoint, "fp32"), path, to="concat")

    return _once(checkpoint.with_name(f"{checkpoint.name}-concat-fp32"), make)


def build_for_genai(checkpoint: Path, weights: Weights, device: str = "cpu") -> Path:
    """The folder that ONNX Runtime GenAI's own builder makes of the checkpoint for "cpu" or "cuda"."""

    def build(path: Path) -> None:
        command = ["onnxruntime_genai.models.builder", "-m", "llama", "-i", str(checkpoint), "-o", str(path)]
        _run([*command, "-p", weights, "-e", device, "-c", str(path.with_suffix(".cache"))])

    suffix = weights if device == "cpu" else f"{weights}-{device}"
    return _once(checkpoint.with_name(f"{checkpoint.name}-genai-{suffix}"), build)


def build_gguf(checkpoint: Path, weights: Weights) -> Path:
    """The folder with a llama.cpp file of the checkpoint, matrices as F32, Q8_0 or Q4_0."""

    def build(path: Path) -> None:
        import gguf
        import numpy as np
        from safetensors.numpy import load_file

        config = json.loads((checkpoint / "config.json").read_text())
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        path.mkdir()
        writer = gguf.GGUFWriter(path / "model.gguf", "llama")
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_rope_dimension_count(config["hidden_size"] // heads)
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_vocab_size(config["vocab_size"])
        _write_vocabulary(writer, checkpoint, config["vocab_size"])
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
        kinds = gguf.GGMLQuantizationType
        kind = {"fp32": kinds.F32, "int8": kinds.Q8_0}.get(weights, kinds.Q4_0)
        for name, tensor in load_file(checkpoint / "model.safetensors").items():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                # llama.cpp rotates neighbouring elements, Transformers the two halves of a head.
                count = heads if "q_proj" in name else kv_heads
                tensor = tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)  # noqa: PLW2901
            stored = kind if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
            data = gguf.quants.quantize(np.ascontiguousarray(tensor, np.float32), stored)
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return _once(checkpoint.with_name(f"{checkpoint.name}-gguf-{weights}"), build)


def _write_vocabulary(writer: Any, checkpoint: Path, size: int) -> None:
    """The tokens and merges of tokenizer.json, where there is one; llama.cpp's server loads nothing without."""
    import gguf

    if not (checkpoint / "tokenizer.json").exists():
        writer.add_tokenizer_model("no_vocab")
        return
    model = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = [f"[unused {index}]" for index in range(size)]
    for token, index in model["vocab"].items():
        tokens[index] = token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.exists():
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        make(partial)
        partial.rename(path)
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
