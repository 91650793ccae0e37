"""Questions about the graph that torch keeps of a computation."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge


def node_of(t: Tensor) -> Any:
    """Find the node of the graph that made a tensor.

    Args:
        t: a tensor that gradients can be taken of.

    Returns:
        The node.
    """
    return get_gradient_edge(t).node


def reached(start: Any, without: Any) -> set[Any]:
    """Find all nodes of the graph from one node down, on ways that avoid another.

    Args:
        start: the node to start at.
        without: the node that no way may pass through.

    Returns:
        The nodes, ``start`` among them.
    """
    seen, waiting = {start}, [start]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node is not without and node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen
