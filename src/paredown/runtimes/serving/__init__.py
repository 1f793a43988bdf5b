"""A server in OpenAI's words around an engine that has none of its own. No torch."""
