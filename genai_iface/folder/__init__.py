# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A model folder: checked, read, and understood from its graph."""

from genai_iface.folder._files import find_inside, open_root, read_json
from genai_iface.folder._own_code import refuse_foreign_kernels, refuse_own_code
from genai_iface.folder.folder import ModelFolder, open_folder, open_texts, open_with_texts
from genai_iface.folder.saved_cache import SavedCache, load_saved_cache, save_cache_file
from genai_iface.folder.tokenizer import FolderTokenizer

__all__ = [
    "FolderTokenizer",
    "ModelFolder",
    "SavedCache",
    "find_inside",
    "load_saved_cache",
    "open_folder",
    "open_root",
    "open_texts",
    "open_with_texts",
    "read_json",
    "refuse_foreign_kernels",
    "refuse_own_code",
    "save_cache_file",
]
