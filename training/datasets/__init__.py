"""Loaders of the pictures that encoders are trained on, and the synthetic data used where the real ones are absent.

`penn_fudan.load` and `mnist.load` are the front doors. Importing this package costs no TensorFlow; only
`training.datasets.pipeline` does.
"""
