"""The fault-injection suite: real processes, every link through a proxy, histories first, checkers afterwards."""
