"""Mutants of the code: small faults put into impl/callboard/core one at a time, which the tests have to notice.

    python -m harness.mutation [--module leases] [--sample 200 --seed 7] [-o report.json]

The usual tools do not fit. cosmic-ray rewrites the file and starts a test command for each mutant, over a second each
before the first test runs. mutmut 3 forks, but works on a rewritten copy of the tree, skips decorated functions
(every property and attrs default) and everything outside of functions, and knows no list of explained survivors.
mutatest has not been released since 2022. So, in a few hundred lines:

- `operators` finds the mutants in the syntax tree; a mutant is named by what it changes, not by its line;
- `judge` runs tests in a process that has imported everything: a forked child gets the mutated code into its functions
  and runs the tests that execute the mutated line, quickest and most deadly first, until one fails;
- mutants of module and class bodies, and of functions that run during import, get a child that has imported nothing of
  callboard yet, and imports the mutated source;
- `campaign` schedules, `report` counts, `explained` checks the mutants that no test can tell from the code.

Nothing in the tree is written. The Hypothesis profile `mutants` draws the same examples each time and shrinks nothing,
and string hashing is fixed, so results are reproducible. Time limits count the child's own processor time.

Not mutated: annotations, decorators, docstrings, type aliases, imports, `__repr__` and `__str__`, assertions and
`assert_never`, text (f-strings), the form of attrs fields (`init=False`), the type argument of `isinstance` and `cast`,
numbers outside of functions (limits and defaults: a test of their values would repeat them), and trace events, which
trace validation judges.
"""
