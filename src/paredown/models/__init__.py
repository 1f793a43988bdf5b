"""Models as files and as modules: finding, reading, writing, loading, walking block by block."""
