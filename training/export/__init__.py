"""From a trained model to a model version folder: SavedModel, ONNX and manifest, proven equal."""
