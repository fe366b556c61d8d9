# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: checkpoints as they come, from a path to a loaded network and the integers its weights were made of."""

from genai_iface.build.checkpoint.network import LoadedNetwork, load_network
from genai_iface.build.checkpoint.quiet import quiet_transformers
from genai_iface.build.checkpoint.source import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "LoadedNetwork", "load_network", "open_checkpoint", "quiet_transformers"]
