"""The exported model on ONNX Runtime."""
