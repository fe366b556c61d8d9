# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A folder's tokenizer below a stream of text."""

from __future__ import annotations

import json
from pathlib import Path

from genai_iface.folder import FolderTokenizer
from genai_iface.generation.text.stream import Detokenizer
from tests.model_files import write_tokenizer_files


def test_ids_may_have_gaps_and_their_text_still_streams(tmp_path: Path) -> None:
    write_tokenizer_files(tmp_path)
    """Tokenizer.encode.1: below vocab_size, which is one more than the highest id and not the number of ids."""
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"]["x"] = 400
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = FolderTokenizer(tmp_path)
    assert tokenizer.encode("axb") == [97, 400, 98]
    assert tokenizer.vocab_size == 401
    stream = Detokenizer(tokenizer)
    assert "".join(stream.push(token)[0] for token in (97, 400, 98)) + stream.finish() == "axb"
    assert tokenizer.decode([ord("x")]) == ""  # an id without a token
