# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server until it is terminated: ``python -m benchmarks.load.llama_server GGUF --port N``."""

from __future__ import annotations

import argparse
import signal


def main() -> None:
    """Serves."""
    import xllamacpp

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-c", "--context", type=int, default=8192, help="tokens of all slots together")
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = given.gguf
    params.hostnames, params.port = ["127.0.0.1"], given.port
    params.n_parallel, params.n_ctx = given.slots, given.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.ui = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
