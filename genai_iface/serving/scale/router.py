# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Ray Serve's choice of a replica, by what each has run."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import (
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from genai_iface.serving.scale.affinity import PrefixAffinity
from genai_iface.serving.scale.forward import Forwarded

__all__ = ["PrefixRouter"]


class PrefixRouter(LocalityMixin, MultiplexMixin, RequestRouter):
    """Prefers the replica that was sent the longest beginning of a prompt, unless it has much more to do.

    Not first come, first served among the requests of one router (Ray's ``FIFOMixin``): a replica that was chosen for
    one request would get another one.
    """

    def initialize_state(self, **fields: Any) -> None:
        """Takes the fields of ``PrefixAffinity``."""
        self._affinity: PrefixAffinity[ReplicaID] = PrefixAffinity(**fields)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Every candidate, the best first."""
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        known = self.replica_queue_len_cache
        loads = {replica_id: known.get(replica_id) or 0 for replica_id in by_id}
        return [[by_id[replica_id]] for replica_id in self._affinity.rank(_keys_of(pending_request), loads)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Takes note of where a prompt went."""
        self._affinity.note(_keys_of(pending_request), replica_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forgets replicas that are gone."""
        super().update_replicas(replicas)
        self._affinity.forget_others({replica.replica_id: None for replica in replicas})


def _keys_of(pending: PendingRequest | None) -> tuple[bytes, ...]:
    first = pending.args[0] if pending is not None and pending.args else None
    return first.keys if isinstance(first, Forwarded) else ()
