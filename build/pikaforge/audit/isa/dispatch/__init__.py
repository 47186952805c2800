"""Run-time dispatch: whether code that needs a feature is reached only where the CPU has said that it has it.

A proof, file by file: `graph` finds who refers to whom, `flow` runs the code that asks the CPU on one that answers
"no", `evidence` puts the two together. What no reading of a file can prove, `known` has from a table, by package and
version.
"""
