"""The loop as a LangGraph graph; the only place that knows LangGraph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paredown.advise.untraced import untraced
from paredown.coordinate import nodes
from paredown.coordinate.nodes import Run
from paredown.coordinate.state import State

_WORK: dict[str, Callable[[State, Run], State]] = {
    "quantization": nodes.compress,
    "pruning": nodes.compress,
    "tuning": nodes.compress,
    "pipeline": nodes.compress,
    "search": nodes.search,
}
_NODES_PER_EPISODE = 4


def run_graph(run: Run) -> str:
    """Turn the loop until the coordinator ends it; returns the reason.

    coordinator -> {quantization | pruning | tuning | pipeline | search} -> evaluation
    -> update_state -> coordinator | END
    """
    from langgraph.graph import END, START, StateGraph

    def bound(node: Callable[[State, Run], State]) -> Callable[[State], State]:
        return lambda state: node(state, run)

    graph: Any = StateGraph(State)
    graph.add_node("coordinator", bound(nodes.coordinator))
    graph.add_node("evaluation", bound(nodes.evaluation))
    graph.add_node("update_state", bound(nodes.update_state))
    for name, node in _WORK.items():
        graph.add_node(name, bound(node))
        graph.add_edge(name, "evaluation")
    graph.add_edge(START, "coordinator")
    graph.add_conditional_edges(
        "coordinator", nodes.route, {**{name: name for name in _WORK}, "end": END}
    )
    graph.add_edge("evaluation", "update_state")
    graph.add_edge("update_state", "coordinator")
    limit = _NODES_PER_EPISODE * (run.plan.config.episodes + 2) + 10
    with untraced():
        final = graph.compile().invoke({}, {"recursion_limit": limit})
    return str(final["stop_reason"])
