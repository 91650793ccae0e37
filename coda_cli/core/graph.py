"""Questions about the graph that torch keeps of a computation."""

from __future__ import annotations

from collections import deque
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


def shortest_way(start: Any, end: Any) -> set[Any]:
    """Find the nodes of one of the shortest ways from one node of the graph down to another.

    Whatever all ways pass through lies on it: of a network with shortcuts, few layers are left to ask about.

    Args:
        start: the node to start at.
        end: the node to arrive at.

    Returns:
        The nodes, both ends among them; none where no way leads there.
    """
    came_from, waiting = {start: None}, deque([start])
    while waiting and end not in came_from:
        here = waiting.popleft()
        for node, _ in here.next_functions:
            if node is not None and node not in came_from:
                came_from[node] = here
                waiting.append(node)
    found, node = set[Any](), end if end in came_from else None
    while node is not None:
        found.add(node)
        node = came_from[node]
    return found
