"""The `pysyncobj` engine: PySyncObj 0.3.17, guarded, on a journal, snapshots and links of our own.

Layers, from the outside in: `engine` (asyncio), `transport` (links between replicas), `identity` (who owns the
directory), `core` (one replica, synchronous, which a simulation can run), `guards` (the library), and below it
`journal`, `snapshots`, `codec` and `disk`.
"""
