"""Scores, probes and figures."""
