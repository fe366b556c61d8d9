# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A model folder: checked, read, and understood from its graph."""

from genai_iface.folder.contract import CacheTensor, Evidence, GraphContract, InputRole
from genai_iface.folder.derive import derive_contract
from genai_iface.folder.folder import ModelFolder, open_folder
from genai_iface.folder.saved_cache import SavedCache, load_saved_cache, save_cache_file
from genai_iface.folder.tokenizer import FolderTokenizer

__all__ = [
    "CacheTensor",
    "Evidence",
    "FolderTokenizer",
    "GraphContract",
    "InputRole",
    "ModelFolder",
    "SavedCache",
    "derive_contract",
    "load_saved_cache",
    "open_folder",
    "save_cache_file",
]
