# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finding a model: a path, a folder of many, a snapshot of a cache, an id of the Hugging Face Hub."""

from genai_iface.folder.resolve._locate import Located, as_checkpoint, as_path, list_variants, locate
from genai_iface.folder.resolve._variants import Variant

__all__ = ["Located", "Variant", "as_checkpoint", "as_path", "list_variants", "locate"]
