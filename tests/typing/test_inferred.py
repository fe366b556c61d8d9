# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What type checkers and editors infer from the first calls; mypy checks the claims, and they run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from genai_iface import KVCache, Model, TextGenerationPipeline, load_model
from tests.models import write_folder


def test_models_and_caches_have_types(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    model = assert_type(load_model(folder), Model[KVCache])
    cache = assert_type(model.create_cache(), KVCache)
    assert_type(model.forward([[1]], cache), NDArray[np.float32])
    assert cache.lengths.tolist() == [1]
    with TextGenerationPipeline(folder) as pipe:
        assert_type(pipe.model, Model[KVCache])
