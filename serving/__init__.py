"""Sparsewalk's service: encodings, reconstructions and pedestrian masks over gRPC, on ONNX Runtime."""
