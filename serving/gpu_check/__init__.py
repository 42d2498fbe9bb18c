"""``python -m serving.gpu_check``: proves and times the models of a repository on this machine's GPU."""
