"""Deterministic simulation of the consensus engines.

Real engine objects run under a virtual clock, over in-memory first-in-first-out links and on a simulated disk that
loses what was not synced. One seed is one schedule of delays, cuts, crashes at any write, restarts, snapshots and
elections; checkers watch every step. `python -m harness.raftsim --help` runs schedules and replays failing ones.

    disk        files that forget unsynced writes, and a crash at the n-th write
    network     links that delay and break, never reorder
    replica     what an engine must offer to be simulated, and what is observed of it
    checkers    Raft's five properties, linearizability by log position, durability, progress
    world       replicas, disks and links together; every step is checked
    schedule    random schedules as plain data, so that they can be replayed and shortened
    runner      runs, shortens and reports schedules
    unguarded   PySyncObj 0.3.17 as it comes, in this environment
    hardened    callboard's engine, in this environment
    scenarios   each known defect of the library as one scripted run
    mutants     callboard's engine with a seeded bug, which a checker or a scenario must catch
"""
