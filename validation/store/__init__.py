"""Proofs by trial that a store of collected samples loses nothing: kills, power losses, refusals of the system, damage.

Every harness does something to a small store, at many points, and judges what is left by the same rules
(:mod:`validation.store.workload`): what was acknowledged is there, bit for bit; nothing is there that was not collected;
the collection goes on and ends with the very files of one that nothing befell. Each harness has to notice stores that are
wrong on purpose, :mod:`validation.store.faults`, or its silence would mean nothing.
"""
