"""Sparsity operators and penalties: pure functions of latents, each with its paper and equation."""
