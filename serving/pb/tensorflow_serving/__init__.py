"""Generated from ``protos/``."""
