# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface serve``: an HTTP server that speaks OpenAI's protocol."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from genai_iface.cli.arguments import add_source_arguments, named_source, parse_options, positive
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
from genai_iface.pipeline import TextGenerationPipeline
from genai_iface.serving import ServerSettings, read_api_keys

__all__ = ["add_parser", "run"]

_DEFAULTS = ServerSettings()
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP, in OpenAI's protocol",
        description="Answers /v1/chat/completions, /v1/completions, /v1/responses and /v1/models, many requests in one "
        'batch. Needs "genai-iface[serve]". Ctrl-C and SIGTERM let running answers end. Logs are JSON, on stderr.',
        epilog="example: genai-iface serve my-model --backend ort --api-key-file keys.txt",
    )
    add_source_arguments(parser)
    parser.add_argument("--backend", default="ort", metavar="NAME", help="a registered backend (default: ort)")
    parser.add_argument("--device", metavar="D", help='one of the devices of "genai-iface devices"')
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the backend; may be repeated"
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--host",
        default=_DEFAULTS.host,
        metavar="ADDRESS",
        help="the address to listen at; all but the default let other machines in (default: %(default)s)",
    )
    where.add_argument(
        "--port", type=_natural, default=_DEFAULTS.port, metavar="N", help="0 takes a free one (default: %(default)s)"
    )
    where.add_argument("--api-key-file", metavar="FILE", help="let in only who shows one of these keys, one a line")
    where.add_argument(
        "--alias", action="append", default=[], metavar="NAME", help="a further name of the model; may be repeated"
    )
    limits = parser.add_argument_group("limits")
    _add_number(limits, "--slots", _DEFAULTS.slots, "sequences that run at once")
    _add_number(limits, "--max-queue", _DEFAULTS.max_queue, "sequences that may wait; more get the status 429")
    _add_number(limits, "--token-budget", _DEFAULTS.token_budget, "most tokens of one step, over all slots")
    limits.add_argument("--capacity", type=positive, metavar="N", help="most tokens of one request, prompt included")
    _add_number(
        limits, "--prefix-bytes", _DEFAULTS.prefix_bytes, "most bytes that finished requests may keep; 0 for none"
    )
    _add_number(limits, "--max-body-bytes", _DEFAULTS.max_body_bytes, "largest request")
    limits.add_argument("--request-seconds", type=float, metavar="S", help="most seconds of one answer")
    limits.add_argument(
        "--drain-seconds",
        type=float,
        default=_DEFAULTS.drain_seconds,
        metavar="S",
        help="how long running answers may go on after Ctrl-C (default: %(default)s)",
    )
    parser.add_argument(
        "--tool-parser",
        default=_DEFAULTS.tool_parser,
        metavar="NAME",
        help="how the model writes calls of tools: hermes, qwen_xml, llama_json, mistral, deepseek, harmony, none "
        "(default: what its chat template says)",
    )
    add_json_argument(parser, "print one JSON object when the server is ready")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0 after the server was stopped.
    """
    # Before a model is loaded, so that a missing library shows at once.
    from genai_iface.serving import Server  # noqa: PLC0415
    from genai_iface.serving.operations.logs import log_to_stderr  # noqa: PLC0415

    source = named_source(arguments)
    keys = () if arguments.api_key_file is None else read_api_keys(arguments.api_key_file)
    settings = ServerSettings(
        host=arguments.host,
        port=arguments.port,
        model_name=_name_of(source),
        aliases=tuple(arguments.alias),
        api_keys=keys,
        slots=arguments.slots,
        capacity=arguments.capacity,
        token_budget=max(arguments.token_budget, arguments.slots),
        max_queue=arguments.max_queue,
        max_body_bytes=arguments.max_body_bytes,
        request_seconds=arguments.request_seconds,
        drain_seconds=arguments.drain_seconds,
        tool_parser=arguments.tool_parser,
        prefix_bytes=arguments.prefix_bytes,
    )
    with Progress().loading():
        pipeline = TextGenerationPipeline(
            source,
            backend=arguments.backend,
            device=arguments.device,
            options=parse_options(arguments.option),
            variant=arguments.variant,
            revision=arguments.revision,
        )
    with pipeline:
        server = Server(pipeline, settings)
        log_to_stderr()
        if settings.host not in _LOOPBACK and not keys:
            print("genai-iface: no --api-key-file: whoever reaches this address may use the model", file=sys.stderr)
        if arguments.json:
            print_json("serve", {"model": settings.model_name, "url": f"{server.url}/v1"})
        else:
            print(f"Serving {settings.model_name!r} at {server.url}/v1", flush=True)
        server.run()
    return 0


def _add_number(group: argparse._ArgumentGroup, name: str, default: int, what: str) -> None:
    group.add_argument(name, type=_natural, default=default, metavar="N", help=f"{what} (default: {default})")


def _natural(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 0")
    return value


def _name_of(source: str | None) -> str:
    """What clients call the model: its id, or the name of its folder."""
    if source is None:
        return "embedded"
    path = Path(source)
    if not path.exists():
        return source
    path = path.resolve()
    return path.parent.name if path.is_file() else path.name
