# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Model folders from GGUF files: their own integers stay, and their tokenizer splits text as the file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import open_folder
from tests.build.gguf_files import HEADS, HIDDEN, KV_HEADS, write_gguf
from tests.model_files import write_tokenizer_files

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.parity

KINDS = {"token_embd": "Q8_0", "attn_v": "Q8_0", "ffn_down": "Q5_0", "ffn_up": "F16", "attn_output": "Q4_1"}


def built(source: Path, out: Path, **options: Any) -> Any:
    from genai_iface.build._build import BuildOptions, build

    return build(source, out, BuildOptions(verify_on="ort", via="export", **options))


def matrices(folder: Path) -> dict[str, np.ndarray]:
    """What each blocked DequantizeLinear gives, by the name of the weight."""
    graph = onnx.load(folder / "model.onnx").graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in known:
            settings = {attribute.name: attribute.i for attribute in node.attribute}
            assert settings["axis"] == 0
            parts = [known[name].astype(np.float32) for name in node.input]
            values = parts[0] - (parts[2].repeat(settings["block_size"], axis=0) if len(parts) > 2 else 0)
            name = node.input[0].removeprefix("integers.").rsplit(".", 1)[0]
            found[name] = values * parts[1].repeat(settings["block_size"], axis=0)
    return found


def stored(path: Path) -> dict[str, np.ndarray]:
    """The file's values as gguf reads them."""
    tensors = gguf.GGUFReader(path).tensors
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in tensors}


def in_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of pairs as Transformers has them."""
    return np.concatenate([np.r_[head[0::2], head[1::2]] for head in np.split(values, heads)])


def test_blocks_stay_what_they_are(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", KINDS, default="Q4_0", pre="smollm")
    result = built(source, tmp_path / "out")
    assert result.verified
    assert result.own_integers.agrees("float32")
    found, file = matrices(tmp_path / "out"), stored(source)
    layer = "model.layers.0."
    expected = {
        "model.embed_tokens.weight": file["token_embd.weight"],
        f"{layer}self_attn.q_proj.weight": in_halves(file["blk.0.attn_q.weight"], HEADS),
        f"{layer}self_attn.k_proj.weight": in_halves(file["blk.0.attn_k.weight"], KV_HEADS),
        f"{layer}self_attn.v_proj.weight": file["blk.0.attn_v.weight"],
        f"{layer}mlp.gate_proj.weight": file["blk.0.ffn_gate.weight"],
        f"{layer}mlp.down_proj.weight": file["blk.0.ffn_down.weight"],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(found[name], values.T), name
    assert "1 matrices have offsets that no zero point gives" in " ".join(result.notes)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    tables = [t for t in graph.initializer if 264 in t.dims and t.data_type != onnx.TensorProto.FLOAT]
    assert [tuple(table.dims) for table in tables] == [(HIDDEN, 264)]  # shared by lookups and the head


def test_offsets_become_the_nearest_bytes_on_request(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", {"token_embd": "F16"}, default="Q4_1")
    result = built(source, tmp_path / "out", quantize="int8")
    notes = " ".join(result.notes)
    assert "7 matrices whose blocks have offsets as the nearest bytes: root mean square error 0." in notes
    found, file = matrices(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"], stored(source)
    assert 0 < np.abs(found - file["blk.0.ffn_up.weight"].T).max() < 0.005 * np.abs(found).max()
    floats = built(source, tmp_path / "floats", dequantize=True)
    assert floats.own_integers is None
    assert matrices(tmp_path / "floats") == {}


def test_an_untied_table_is_looked_up_in_rows_of_bytes(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", {"output.weight": "Q8_0"}, default="Q4_0", tied=False)
    result = built(source, tmp_path / "out")
    assert result.own_integers.agrees("float32")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    table = next(t for t in graph.initializer if "embed_tokens.weight.rows.int8" in t.name)
    assert tuple(table.dims) == (264, HIDDEN)


def test_what_was_loaded_is_an_ordinary_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers refuses to save a network that it takes for quantized; mobius-onnx reads what it saves."""
    from safetensors.numpy import load_file

    from genai_iface.build.checkpoint import load_network, open_checkpoint
    from genai_iface.build.gguf import parsed_once

    source, parses = write_gguf(tmp_path / "model.gguf", KINDS, default="Q4_0", pre="smollm"), []
    build_fields = gguf.GGUFReader._build_fields
    monkeypatch.setattr(gguf.GGUFReader, "_build_fields", lambda *given: (parses.append(1), build_fields(*given))[1])
    with parsed_once():
        load_network(open_checkpoint(source), "float32").network.save_pretrained(tmp_path / "saved")
    assert len(parses) == 1
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    found = load_file(tmp_path / "saved" / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert np.array_equal(found, stored(source)["blk.0.ffn_down.weight"])


def test_the_configuration_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    built(write_gguf(tmp_path / "model.gguf", KINDS, default="Q4_0", pre="smollm"), tmp_path / "out")
    for file in (tmp_path / "out").glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert str(tmp_path) not in text, file.name
        assert "model.gguf" not in text, file.name
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert not {"quantization_config", "_name_or_path"} & set(config)


def test_text_is_split_as_the_file_says(tmp_path: Path) -> None:
    encoded = {}
    for rule in ("gpt-2", "smollm"):
        out = tmp_path / rule
        built(write_gguf(tmp_path / f"{rule}.gguf", {}, default="Q8_0", pre=rule), out)
        tokenizer = open_folder(out).tokenizer
        encoded[rule] = [tokenizer.decode([token]) for token in tokenizer.encode("12 a")]
    assert encoded == {"gpt-2": ["12", " a"], "smollm": ["1", "2", " a"]}


@pytest.mark.parametrize("rule", ["nobody-knows", None])
def test_an_unknown_way_to_split_text_is_refused(rule: str | None, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", {}, default="Q8_0", pre=rule)
    message = r"tokenizer\.ggml\.pre" + ("='nobody-knows'; known are .*smollm" if rule else " is missing")
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        built(source, tmp_path / "out")
    assert "--tokenizer FOLDER" in str(caught.value)
    with pytest.raises(InvalidInputError, match=r"no tokenizer\.json"):
        built(source, tmp_path / "out", tokenizer=tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer_files(other)
    built(source, tmp_path / "out", tokenizer=other)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_a_truncated_file_is_called_truncated(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", {}, default="Q8_0")
    source.write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(InvalidInputError, match=r"'model\.gguf' is truncated"):
        built(source, tmp_path / "out")
