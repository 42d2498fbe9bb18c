"""Training objectives: a pure function first; shapes, reduction and paper in its docstring."""
