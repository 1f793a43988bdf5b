"""The runtime `llama.cpp`: artifacts as GGUF files with the very same numbers, driven here."""
