# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finding a model: a path, a folder of many, a snapshot of a cache, an id of the Hugging Face Hub."""

from genai_iface.folder.resolve._describe import ModelFacts, describe_models
from genai_iface.folder.resolve._locate import Located, as_checkpoint, as_path, locate
from genai_iface.folder.resolve._source import is_id

__all__ = ["Located", "ModelFacts", "as_checkpoint", "as_path", "describe_models", "is_id", "locate"]
