"""The loop: coordinator, the nodes of the graph, and the state that passes between them."""
