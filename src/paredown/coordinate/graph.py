"""The loop as a LangGraph graph; the only place that knows LangGraph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from paredown.advise.untraced import untraced
from paredown.coordinate import nodes
from paredown.coordinate.state import Run, State

KINDS = ("quantization", "pruning", "tuning", "pipeline")
_NODES_PER_TURN = 4


def run_graph(run: Run) -> str:
    """Turn the loop until the coordinator ends it; returns the reason.

    coordinator -> {quantization | pruning | tuning | pipeline} -> evaluation -> update_state
    -> coordinator | END

    A turn hands out as many trials as there are workers free, to the nodes of their kinds, and
    takes in at least one; where there is nothing to hand out it goes to evaluation at once.
    """
    from langgraph.graph import END, START, StateGraph

    def bound(node: Callable[[State, Run], State]) -> Callable[[State], State]:
        return lambda state: node(state, run)

    graph: Any = StateGraph(State)
    graph.add_node("coordinator", bound(nodes.coordinator))
    graph.add_node("evaluation", bound(nodes.evaluation))
    graph.add_node("update_state", bound(nodes.update_state))
    for kind in KINDS:
        graph.add_node(kind, bound(partial(nodes.hand_out, kind=kind)))
        graph.add_edge(kind, "evaluation")
    graph.add_edge(START, "coordinator")
    ways = {name: name for name in (*KINDS, "evaluation")} | {"end": END}
    graph.add_conditional_edges("coordinator", nodes.route, ways)
    graph.add_edge("evaluation", "update_state")
    graph.add_edge("update_state", "coordinator")
    # Every turn takes in a trial, so there are no more turns than episodes, and one that ends.
    limit = _NODES_PER_TURN * (run.prepared.config.episodes + 2) + 10
    # One node at a time: those of two kinds would hand out from two threads, in any order.
    settings = {"recursion_limit": limit, "max_concurrency": 1}
    with untraced():
        final = graph.compile().invoke({}, settings)
    return str(final["stop_reason"])
