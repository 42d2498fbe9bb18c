"""The service as several processes on one port: who starts them, how they speak, and the memory they share.

On the CPU each worker has its own models::

    supervisor ── worker, worker, ...

On a GPU one engine process has the models, and the fronts decode pictures for it; rows lie in memory that both map::

    supervisor ── front, front, ...
          │          │      │
          └───────── engine
"""
