"""The runtime `openvino`: models with an artifact's own codes as constants, on the CPU."""
