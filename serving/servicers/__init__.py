"""The protocols: each servicer converts a request, calls the engine, converts the answer, and does nothing else."""
