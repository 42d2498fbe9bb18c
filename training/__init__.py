"""Sparsewalk's training toolkit: sparse and segmentation auto-encoders in TensorFlow/Keras."""
