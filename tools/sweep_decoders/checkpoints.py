# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny checkpoint of a model type, or why Transformers makes none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from genai_iface.build._families import Family, make_checkpoint

__all__ = ["NotMadeError", "made"]


class NotMadeError(Exception):
    """Transformers itself makes no network of a type, whatever its sizes are."""


def made(family: Family, checkpoint: Path) -> Any:
    """The network, saved.

    Raises:
        NotMadeError: Its class takes the configuration of a part only, or asks for a package that is not there.
    """
    try:
        return make_checkpoint(family, checkpoint)
    except ImportError as error:
        wanted = ", ".join(re.findall(r"requires the (\S+) library", str(error)))
        if not wanted:
            raise
        raise NotMadeError(f"Transformers makes this network with packages only that are not here: {wanted}") from error
    except AttributeError as error:
        if (why := _takes_a_part(family)) is None:
            raise
        raise NotMadeError(f"Transformers itself makes no network of this configuration: {why}") from error


def _takes_a_part(family: Family) -> str | None:
    """Of a class that Transformers names for the whole of several networks, and that takes the decoder's alone."""
    given = CONFIG_MAPPING[family.model_type]
    named = MODEL_FOR_CAUSAL_LM_MAPPING[given]
    takes = named.config_class
    if takes is given:
        return None
    return f"{named.__name__}, which it names for {given.__name__}, takes {takes.__name__}"
