"""Ways of training. Each is a :class:`~training.loops.trainer.Program`; the trainer supplies everything they share."""
