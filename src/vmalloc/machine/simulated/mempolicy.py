"""The memory policy of the running task: from which nodes frames come when a call names none (section 3.3 step 2).

Idea: a policy answers two questions, "which nodes for one request, in order" and "how is a batch divided".  The machine
asks only where a policy was set; the default - the node of the running CPU, then its neighbours - costs nothing.

* ``bind``: from these nodes and no others, the nearest first;
* ``preferred``: from these nodes, the nearest first, and then from any;
* ``interleave``: one frame from each in turn; a batch is divided evenly, and the first ``rest`` nodes get one more;
* ``weighted``: the same with a weight per node.

Protected by the lock of whoever owns the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmalloc.errors import BadRequest

__all__ = ["KINDS", "MemPolicy"]

KINDS = ("bind", "preferred", "interleave", "weighted")


@dataclass
class MemPolicy:
    """One policy.

    Attributes:
        kind: one of ``KINDS``.
        nodes: the nodes it is about, ascending.
        weights: of ``weighted``: how many frames in a row a node gives.
        turn: of ``interleave`` and ``weighted``: frames handed out one by one so far.
    """

    kind: str
    nodes: Sequence[int]
    weights: Mapping[int, int] = field(default_factory=dict)
    turn: int = 0

    def check(self, nr_nodes: int) -> None:
        """Raises BadRequest for a policy that cannot be: an unknown kind, no node, one that does not exist."""
        if self.kind not in KINDS:
            raise BadRequest(f"memory policy {self.kind!r}: one of {', '.join(KINDS)}")
        if not self.nodes or len(set(self.nodes)) != len(self.nodes):
            raise BadRequest(f"nodes {list(self.nodes)} of a memory policy: at least one, none twice")
        for node in self.nodes:
            if not 0 <= node < nr_nodes:
                raise BadRequest(f"node {node} of a machine whose nodes are 0 to {nr_nodes - 1}")
        if self.kind == "weighted" and any(self.weights.get(node, 0) < 1 for node in self.nodes):
            raise BadRequest(f"weights {dict(self.weights)}: at least 1 for each of the nodes {list(self.nodes)}")

    @property
    def only_these(self) -> bool:
        """Whether no other node may be asked."""
        return self.kind == "bind"

    def order(self, distances: Sequence[int]) -> list[int]:
        """The nodes to ask for one frame or block, in order, seen from a node with these distances."""
        if self.kind in ("bind", "preferred"):
            return sorted(self.nodes, key=lambda node: (distances[node], node))
        row = self._row()
        node = row[self.turn % len(row)]
        self.turn += 1
        return [node]

    def division(self, count: int) -> list[tuple[int, int]]:
        """How a batch of ``count`` frames is divided: ``(node, frames)``; empty where it is not."""
        if self.kind not in ("interleave", "weighted"):
            return []
        weights = [self.weights[node] if self.kind == "weighted" else 1 for node in self.nodes]
        rounds, rest = divmod(count, sum(weights))
        shares = []
        for node, weight in zip(self.nodes, weights, strict=True):
            extra = min(weight, rest)
            rest -= extra
            shares.append((node, rounds * weight + extra))
        return [(node, share) for node, share in shares if share]

    def _row(self) -> list[int]:
        """Each node as often as its weight."""
        if self.kind == "interleave":
            return list(self.nodes)
        return [node for node in self.nodes for _ in range(self.weights[node])]
