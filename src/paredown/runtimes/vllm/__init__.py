"""vLLM: what its reader and kernels take, and models opened in it in an environment of its own."""
