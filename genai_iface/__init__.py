# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One way to run a generative ONNX model on any runtime.

This package holds the interface: protocols, data types, configuration, errors, and what needs
nothing but them. Runtimes come from backends, which are found by name. Importing it loads no
runtime and, beyond numpy, no third-party library.
"""

from typing import TYPE_CHECKING

from genai_iface.capabilities import LEVEL_PROFILES, Capability
from genai_iface.config import DEFAULT_MAX_NEW_TOKENS, GenerationConfig, GenerationOverrides
from genai_iface.errors import (
    BackendError,
    BackendNotFoundError,
    CacheOverflowError,
    CacheRewindError,
    GenAIError,
    InsufficientMemoryError,
    InterfaceVersionError,
    InvalidInputError,
    OutputError,
    UnsupportedCapabilityError,
    UnsupportedModelError,
)
from genai_iface.protocols import (
    Backend,
    Generator,
    KVCache,
    Message,
    Model,
    Pipeline,
    Prompt,
    SupportsCheckpoint,
    SupportsFork,
    SupportsGenerator,
    SupportsInspect,
    SupportsSave,
    Tokenizer,
)
from genai_iface.registry import list_backends, load_backend, load_model
from genai_iface.results import Chunk, FinishReason, GenerationResult, PerfMetrics, Score, TokenLogprob
from genai_iface.types import (
    BackendInfo,
    CacheLayout,
    CacheMode,
    CacheSpec,
    CacheStyle,
    Device,
    DType,
    LayerCacheSpec,
    LogitsMode,
    ModelSpec,
    StateKind,
    StateSpec,
    UpdateMode,
)
from genai_iface.version import INTERFACE_VERSION, SUPPORTED_INTERFACE_VERSIONS, negotiate_version

if TYPE_CHECKING:
    from genai_iface.generation.hooks import GenerationHooks
    from genai_iface.memory import available_memory, check_cache_fits, estimate_cache_bytes
    from genai_iface.pipeline import TextGenerationPipeline

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_MAX_NEW_TOKENS",
    "INTERFACE_VERSION",
    "LEVEL_PROFILES",
    "SUPPORTED_INTERFACE_VERSIONS",
    "Backend",
    "BackendError",
    "BackendInfo",
    "BackendNotFoundError",
    "CacheLayout",
    "CacheMode",
    "CacheOverflowError",
    "CacheRewindError",
    "CacheSpec",
    "CacheStyle",
    "Capability",
    "Chunk",
    "DType",
    "Device",
    "FinishReason",
    "GenAIError",
    "GenerationConfig",
    "GenerationHooks",
    "GenerationOverrides",
    "GenerationResult",
    "Generator",
    "InsufficientMemoryError",
    "InterfaceVersionError",
    "InvalidInputError",
    "KVCache",
    "LayerCacheSpec",
    "LogitsMode",
    "Message",
    "Model",
    "ModelSpec",
    "OutputError",
    "PerfMetrics",
    "Pipeline",
    "Prompt",
    "Score",
    "StateKind",
    "StateSpec",
    "SupportsCheckpoint",
    "SupportsFork",
    "SupportsGenerator",
    "SupportsInspect",
    "SupportsSave",
    "TextGenerationPipeline",
    "TokenLogprob",
    "Tokenizer",
    "UnsupportedCapabilityError",
    "UnsupportedModelError",
    "UpdateMode",
    "available_memory",
    "check_cache_fits",
    "estimate_cache_bytes",
    "list_backends",
    "load_backend",
    "load_model",
    "negotiate_version",
]


def __getattr__(name: str) -> object:
    # The pipeline brings in all of generation; whoever implements a backend need not wait for it.
    if name == "TextGenerationPipeline":
        from genai_iface.pipeline import TextGenerationPipeline  # noqa: PLC0415

        return TextGenerationPipeline
    if name == "GenerationHooks":
        from genai_iface.generation.hooks import GenerationHooks  # noqa: PLC0415

        return GenerationHooks
    if name in ("available_memory", "check_cache_fits", "estimate_cache_bytes"):
        from genai_iface import memory  # noqa: PLC0415

        return getattr(memory, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
