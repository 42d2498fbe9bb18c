"""Generated from ``protos/`` by ``make protos``; a test holds the two together."""
