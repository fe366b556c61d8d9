# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Logs: one JSON object a line, with the id of the request."""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from datetime import UTC, datetime

__all__ = ["LOGGER", "JsonFormatter", "log_to_stderr", "request_id_of"]

LOGGER = logging.getLogger("genai_iface.serving")

_LEGAL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes a record and its extra fields as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; control characters are escaped, so that nobody can write a line of his own."""
        extra = {name: value for name, value in vars(record).items() if name not in _OWN and name != "color_message"}
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def log_to_stderr() -> None:
    """Sends the logs of the server, and the warnings of uvicorn, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (("genai_iface.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def request_id_of(given: str | None) -> str:
    """The id that a client gave, if it can stand in a log, else a new one."""
    return given if given is not None and _LEGAL_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
