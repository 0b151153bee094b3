"""What exercises callboard from outside: clusters, simulated sidecars, faults, checkers, the model checker's runner."""
