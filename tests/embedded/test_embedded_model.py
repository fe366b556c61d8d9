# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model in the package: what its folder says of itself, and that it answers questions and stops."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

from genai_iface import TextGenerationPipeline, load_model
from genai_iface.cli.main import main
from genai_iface.models import EMBEDDED, default_folder
from tools.train_embedded.text.conversations import CHAT_TOKENS, SYSTEM_LINES, render
from tools.train_embedded.text.questions import Pair


def test_the_template_renders_what_training_read() -> None:
    pairs = [Pair("What does Relu do?", "The Relu operator is one."), Pair("And Conv?", "Another.")]
    messages = [{"role": "system", "content": SYSTEM_LINES[0]}]
    for pair in pairs:
        messages += [{"role": "user", "content": pair.question}, {"role": "assistant", "content": pair.answer}]
    with TextGenerationPipeline() as pipe:
        prompt = pipe.tokenizer.apply_chat_template(messages[:-1])
        ids = pipe.tokenizer.encode(prompt, add_special_tokens=False)
    assert prompt + pairs[-1].answer == render(pairs, SYSTEM_LINES[0])
    # Each marker is one token behind the text's own 4096.
    assert [id_ for id_ in ids if id_ >= 4096] == [4096, 4097, 4098, 4097, 4098]
    assert len(CHAT_TOKENS) == 3
    assert ids.count(0) == 1


def test_it_answers_and_stops_by_itself() -> None:
    with TextGenerationPipeline() as pipe:
        result = pipe.generate([{"role": "user", "content": "What does Softmax do?"}])
        assert "Softmax" in result.text
        assert result.finish_reasons == ["stop"]
        assert len(result.token_ids[0]) < 80


def test_a_conversation_through_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What does Softmax do?\nWhich inputs does Gather take?\n"))
    assert main(["chat"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "Softmax" in first
    assert second == "Gather takes two required inputs, `data` and `indices`."


def test_the_checksums_and_the_size_are_those_of_the_files() -> None:
    folder = default_folder()
    provenance = (folder / "PROVENANCE.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", provenance, re.MULTILINE))
    assert set(stated) == {"model.onnx", "tokenizer.json"}
    for name, checksum in stated.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8_000_000


@pytest.mark.parity
def test_training_can_go_on_from_the_folder() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; pip install '.[parity]'")
    from tools.train_embedded.start import start_from

    earlier = start_from(default_folder())
    assert earlier.visits > 7_000_000
    ids = np.array([[5, 4097, 300, 4098, 17]])
    with torch.no_grad():
        expected = earlier.model(torch.from_numpy(ids)).numpy()
    model = load_model(EMBEDDED, backend="numpy")
    got = model.forward(ids, model.create_cache(batch_size=1, capacity=8), logits="all")
    model.close()
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)
    # A folder without the markers gets rows for them, near the mean of the others.
    assert earlier.model.config.vocab_size == 4099


@pytest.mark.parity
def test_a_provenance_without_visits_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed; pip install '.[parity]'")
    from tools.train_embedded.start import visits_of

    assert visits_of("1 steps, 20 token visits, and 300 token visits in all") == 300
    with pytest.raises(ValueError, match="no number of token visits"):
        visits_of("trained")
