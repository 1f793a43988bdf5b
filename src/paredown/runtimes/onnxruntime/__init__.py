"""The runtime `onnxruntime`: ONNX files with an artifact's own numbers, opened by GenAI."""
