"""Reference models in plain Python, for readers. They share no code with the implementation, and import nothing of it.

Read them in this order; each takes some minutes:

    leases       how long a host may serve, and how long a leader waits
    ring         which host Dapr's consistent hash names
    slots        which host owns which slot of a native table
    deltas       tables on the wire
    membership   what the replicated log makes of commands
    barrier      rounds of lock, update, unlock
    exclusive    how a slot changes hands
    actors       turns of actors in one host

Nothing here is quick. Where the implementation keeps an index, a model looks at everything again. tests/model drives
both side by side and compares them after every step. Methods and functions are named as the properties in
spec/README.md are, or say in their first line which property or rule they are.
"""
