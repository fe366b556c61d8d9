# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What Transformers exports runs here with torch's tokens; what is built here runs in its ``ExportedModel``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import TextGenerationPipeline, load_model
from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.integrations.transformers import open_export
from tests.integrations.exports import export_apart
from tests.model_files import write_tokenizer_files
from tests.models import write_folder

pytestmark = [
    pytest.mark.parity,
    # Transformers asks torch's pytrees in a form that is going away.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*custom_op.*:UserWarning"),
]


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_their_export_gives_torchs_tokens_in_ragged_batches(family: str, tmp_path: Path) -> None:
    from transformers.exporters import ExportedModel

    from genai_iface.build._families import tiny_model
    from genai_iface.build._verify import compare, torch_reference

    folder = export_apart(tmp_path / "exported", family)
    reference = torch_reference(tiny_model(family), steps=12, prompt_tokens=11)
    with open_export(ExportedModel.from_pretrained(folder)) as opened:
        for backend in ("numpy", "ort"):
            model = load_model(opened.source, backend=backend)
            found = compare(model, reference)
            model.close()
            assert found.tokens_equal
            assert found.difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_folder_built_by_way_of_their_exporter_is_standard(family: str, tmp_path: Path) -> None:
    from genai_iface.build import BuildOptions, build
    from genai_iface.build._families import make_checkpoint

    make_checkpoint(family, tmp_path / "checkpoint")
    result = build(tmp_path / "checkpoint", tmp_path / "out", BuildOptions(via="transformers"))
    assert result.verified
    assert result.attempts[-1].comparison is not None
    assert result.attempts[-1].comparison.tokens_equal
    operators = {node.op_type for node in load_graph(tmp_path / "out").node}
    assert {"TensorScatter", "Attention", "RMSNormalization", "RotaryEmbedding"} <= operators
    assert not {"Where", "ReduceSum"} & operators


def load_graph(folder: Path) -> Any:
    import onnx

    return onnx.load(folder / "model.onnx", load_external_data=False).graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genai_iface.integrations.transformers import register, write_manifest

    made = write_folder(tmp_path_factory.mktemp("ours"), style="scatter")
    config = json.loads((made / "config.json").read_text()) | {"model_type": "llama"}
    (made / "config.json").write_text(json.dumps(config))
    register()
    register()
    assert write_manifest(made) == made / "export.json"
    write_manifest(made)  # its own may be written again
    return made


@pytest.mark.parametrize("backend", ["numpy", "ort"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_folder_of_ours_is_an_exported_model(backend: str, side: str, folder: Path) -> None:
    import torch
    from transformers.exporters import ExportedModel

    exported = ExportedModel.from_pretrained(folder, backend=backend)
    rows = [[5, 6, 7, 8, 9], [10, 11]]
    ids, mask = np.zeros((2, 5), np.int64), np.zeros((2, 5), np.int64)
    for row, tokens in enumerate(rows):
        place = slice(5 - len(tokens), 5) if side == "left" else slice(0, len(tokens))
        ids[row, place], mask[row, place] = tokens, 1
    first = exported(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), cache=None)
    model = load_model(folder, backend="numpy")
    alone = []
    for row, tokens in enumerate(rows):
        cache = model.create_cache()
        wanted = model.forward([tokens], cache, logits="all")[0]
        assert np.abs(first.logits.numpy()[row][mask[row] == 1] - wanted).max() < 1e-5
        assert not first.logits.numpy()[row][mask[row] == 0].any()
        alone.append(model.forward([[12]], cache)[0, -1])
    positions = torch.tensor([[5], [2]])
    whole = torch.from_numpy(np.concatenate([mask, [[1], [1]]], 1))
    token = torch.full((2, 1), 12)
    second = exported(input_ids=token, attention_mask=whole, position_ids=positions, cache=first.cache)
    assert np.abs(second.logits.numpy()[:, -1] - np.stack(alone)).max() < 1e-5
    assert second.cache.get_seq_length() == 6
    second.cache.crop(-1)
    again = exported(input_ids=token, cache=second.cache)
    assert np.abs(again.logits.numpy()[:, -1] - np.stack(alone)).max() < 1e-5
    again.cache.reorder_cache(torch.tensor([1, 1]))
    assert again.cache.kv.lengths.tolist() == [3, 3]
    again.cache.reset()
    assert again.cache.get_seq_length() == 0


def test_what_a_runner_cannot_keep_is_refused(folder: Path) -> None:
    import torch
    from transformers import DynamicCache
    from transformers.exporters import ExportedModel

    exported = ExportedModel.from_pretrained(folder, backend="numpy")
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(InvalidInputError, match="hole in row 0"):
        exported(input_ids=ids, attention_mask=torch.tensor([[1, 0, 1]]))
    with pytest.raises(InvalidInputError, match="shape"):
        exported(input_ids=ids, attention_mask=torch.tensor([[1, 1]]))
    with pytest.raises(InvalidInputError, match="continue at"):
        exported(input_ids=ids, position_ids=torch.tensor([[1, 2, 3]]))
    foreign = DynamicCache()
    assert exported(input_ids=ids, cache=foreign).logits.shape[:2] == (1, 3)  # empty: a beginning
    foreign.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    with pytest.raises(InvalidInputError, match="DynamicCache with tokens"):
        exported(input_ids=ids, cache=foreign)


def test_a_manifest_of_another_exporter_is_left_alone(tmp_path: Path) -> None:
    from genai_iface.integrations.transformers import write_manifest

    made = write_folder(tmp_path / "model")
    (made / "export.json").write_text('{"export_format": "onnx"}')
    with pytest.raises(InvalidInputError, match="format 'onnx'"):
        write_manifest(made)
    assert (made / "export.json").read_text() == '{"export_format": "onnx"}'


def test_our_exporter_saves_a_folder_for_both(tmp_path: Path) -> None:
    import torch
    from transformers.exporters import AutoHfExporter, ExportedModel

    from genai_iface.build._families import tiny_model
    from genai_iface.integrations.transformers import StandardConfig, register

    register()
    network = tiny_model("qwen3_moe")
    before = network.get_experts_implementation()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    config = StandardConfig()
    exported = AutoHfExporter.from_config(config).export_for_generation(network, {"input_ids": ids}, config)
    assert network.get_experts_implementation() == before
    with torch.no_grad():
        wanted = network(ids).logits.numpy()
    assert np.abs(exported(input_ids=ids).logits.numpy() - wanted).max() < 1e-5
    exported.save_pretrained(tmp_path)
    write_tokenizer_files(tmp_path)
    back = ExportedModel.from_pretrained(tmp_path, backend="numpy")
    assert np.abs(back(input_ids=ids).logits.numpy() - wanted).max() < 1e-5
    model = load_model(tmp_path)
    assert np.abs(model.forward(ids.numpy(), model.create_cache(batch_size=2), logits="all") - wanted).max() < 1e-5
    with pytest.raises(InvalidInputError, match="without input_ids"):
        AutoHfExporter.from_config(config).export(network, {"pixel_values": ids}, config)


@pytest.mark.parametrize("family", ["lfm2", "qwen3_5", "mamba2"])
def test_a_network_that_keeps_states_is_told_the_way(family: str) -> None:
    import torch

    from genai_iface.build._families import tiny_model
    from genai_iface.integrations.transformers import StandardConfig, StandardExporter

    with pytest.raises(UnsupportedModelError, match=r"Layer 0 of \w+ keeps a .* in its cache") as caught:
        StandardExporter().export(tiny_model(family), {"input_ids": torch.zeros(1, 3).long()}, StandardConfig())
    assert "genai-iface build" in str(caught.value)


def test_a_pipeline_takes_a_tokenizer_of_transformers(folder: Path, tmp_path: Path) -> None:
    import transformers

    texts = tmp_path / "texts"
    texts.mkdir()
    write_tokenizer_files(texts)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(texts / "tokenizer.json"))
    with TextGenerationPipeline(folder) as pipe:
        expected = pipe.generate("An operator", max_new_tokens=4, ignore_eos=True).token_ids
    with TextGenerationPipeline.from_exported(folder, tokenizer=tokenizer) as pipe:
        assert pipe.generate("An operator", max_new_tokens=4, ignore_eos=True).token_ids == expected
