# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From one way of keeping the cache to another."""

from genai_iface.transform.convert._cache_surgery import Converted, LayerNote
from genai_iface.transform.convert.concat_cache import to_concat
from genai_iface.transform.convert.folder import Target, convert_folder
from genai_iface.transform.convert.scatter_cache import to_scatter
from genai_iface.transform.convert.scatter_nd import ScatterNd, to_scatter_nd
from genai_iface.transform.convert.standard_model import to_standard

__all__ = [
    "Converted",
    "LayerNote",
    "ScatterNd",
    "Target",
    "convert_folder",
    "to_concat",
    "to_scatter",
    "to_scatter_nd",
    "to_standard",
]
