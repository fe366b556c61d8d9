# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The server on a Ray of this machine: its rate before and after a replica is killed, and replicas that come and go.

    python -m benchmarks.ray_serving --replicas 3 --clients 8 --report docs/reports/serving-ray.json

Clients ask one after the other all the time; after a while one replica is killed, and they go on until another one has
been running in its place for a while. Then an application of one replica gets more requests than its target until there
are two, and none until there is one again. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load.local_ray import local_ray
from benchmarks.load.target import free_port

_AROUND = 5.0
_PATIENCE = 240.0
# Rates are of at least so many answers for each client, however slow the machine is.
_LEAST = 3


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs both, prints what happened, and gives it back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--before", type=float, default=20.0, help="seconds under load until one is killed")
    parser.add_argument("--after", type=float, default=40.0, help="seconds from when all are there again")
    parser.add_argument("--report", type=Path, help="write the result there too")
    given = parser.parse_args(arguments)
    with _ray(given.replicas + 1) as port:
        result = {"replicas": given.replicas, "clients": given.clients, "processors": os.cpu_count()}
        result |= {"kill": kill(port, given), "scaling": scale(port, given)}
    print(json.dumps(result))
    if given.report is not None:
        given.report.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


@contextmanager
def _ray(num_cpus: int) -> Iterator[int]:
    """Ray, and the port of its proxy."""
    with local_ray(num_cpus):
        from ray import serve

        port = free_port()
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
            yield port
        finally:
            serve.shutdown()


def replicas() -> list[str]:
    """The names of the actors that hold a model."""
    import ray

    named: list[dict[str, str]] = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in named if "#Replica#" in one["name"]]


def num_running() -> int:
    """Replicas that take requests; an actor is there long before it has its model."""
    from ray import serve

    application = serve.status().applications.get("genai")
    deployment = None if application is None else application.deployments.get("Replica")
    return 0 if deployment is None else deployment.replica_states.get("RUNNING", 0)


def _is_replaced(victim: str, wanted: int) -> bool:
    now = replicas()
    return victim not in now and len(now) == num_running() == wanted


def kill(port: int, given: argparse.Namespace) -> dict[str, Any]:
    """Requests a second before a replica is killed, in the seconds around that, and after another one runs."""
    import ray
    from ray import serve

    from genai_iface.serving.ray_app import RayArguments, build

    serve.run(build(RayArguments(name="m", min_replicas=given.replicas, slots=4)), name="genai", route_prefix="/")
    least = _LEAST * given.clients
    with _clients(port, given.clients, given.tokens) as done:
        # The first answers warm up.
        _until(lambda: len(done) >= least, "the first answers")
        begun = time.perf_counter()
        time.sleep(given.before)
        _until(lambda: len(done) >= 2 * least, "answers before the kill")
        victim = replicas()[0]
        ray.kill(ray.get_actor(victim, namespace="serve"), no_restart=False)
        killed = time.perf_counter()
        num_killed = len(done)
        # Ray Serve counts a dead replica until it has noticed; then it starts the actor of another.
        _until(lambda: _is_replaced(victim, given.replicas), "another replica")
        back = time.perf_counter()
        num_back = len(done)
        time.sleep(given.after)
        _until(lambda: len(done) >= num_back + least, "answers after the kill")
        end = time.perf_counter()
    serve.delete("genai")

    def rate(start: float, end: float) -> float:
        return round(sum(start <= at < end for at, _ in done) / (end - start), 2)

    return {
        "before": rate(begun, killed),
        "around": rate(killed - _AROUND / 2, killed + _AROUND / 2),
        "until_all_replicas": rate(killed, back),
        "after": rate(back, end),
        "each_second_from_the_kill": [rate(killed + at, killed + at + 1) for at in range(int(end - killed))],
        "seconds_until_all_replicas": round(back - killed, 1),
        "seconds_after": round(end - back, 1),
        "answers_before_and_after_the_kill": [num_killed, len(done) - num_killed],
        "outcomes": dict(Counter(outcome for _, outcome in done)),
    }


def scale(port: int, given: argparse.Namespace) -> dict[str, Any]:
    """Seconds until a second replica answers while requests wait, and until it is gone when there are none."""
    from ray import serve

    from genai_iface.serving.ray_app import RayArguments, build

    wanted = RayArguments(
        name="m", min_replicas=1, max_replicas=2, slots=4, target_requests=1, upscale_seconds=3, downscale_seconds=6
    )
    serve.run(build(wanted), name="genai", route_prefix="/")
    counts = [len(replicas())]
    started = time.perf_counter()
    with _clients(port, given.clients, given.tokens) as done:
        up = _until(lambda: len(replicas()) == num_running() == 2, "a second replica")
        counts.append(num_running())
    stopped = time.perf_counter()
    down = _until(lambda: len(replicas()) == 1, "the end of the second replica")
    counts.append(len(replicas()))
    serve.delete("genai")
    return {
        "replicas": counts,
        "seconds_to_two": round(up - started, 1),
        "seconds_to_one": round(down - stopped, 1),
        "outcomes": dict(Counter(outcome for _, outcome in done)),
    }


def _until(is_so: Callable[[], bool], what: str) -> float:
    """When it is so.

    Raises:
        TimeoutError: Not in time.
    """
    end = time.perf_counter() + _PATIENCE
    while not is_so():
        if time.perf_counter() > end:
            raise TimeoutError(f"{what} did not come within {_PATIENCE} s; {len(replicas())} replicas")
        time.sleep(0.2)
    return time.perf_counter()


@contextmanager
def _clients(port: int, count: int, tokens: int) -> Iterator[list[tuple[float, str]]]:
    """So many clients that ask all the time; when each request ended, and how."""
    done: list[tuple[float, str]] = []
    is_over = threading.Event()

    def work(number: int) -> None:
        at = number
        while not is_over.is_set():
            outcome = _ask(port, f"{at}. The operator", tokens)
            done.append((time.perf_counter(), outcome))
            at += count

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _ask(port: int, prompt: str, tokens: int) -> str:
    """What became of a request: that it was answered, or what went wrong."""
    body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            read = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return type(error).__name__
    if answer.status != 200:
        return str(answer.status)
    return "answered" if read["usage"]["completion_tokens"] == tokens else "short"


if __name__ == "__main__":
    main()
