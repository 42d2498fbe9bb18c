"""Architectures: plain arguments in, ``keras.Model`` out, one architecture a file."""
