"""The placement server: one replica's services over a consensus engine and the pure machines of the core."""
