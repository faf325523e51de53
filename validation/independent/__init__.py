"""The methods appendix, followed to the letter by a program that uses nothing of `qkov`.

Written from the text alone: NumPy in double precision, PyTorch and transformers only to run a model and differentiate one
sample at a time. Comments name the equations of `reports/appendix/text`. Nothing here may import `qkov`, or any module of
the repository that does: :mod:`validation.independent_evidence` runs it in a process in which `qkov` cannot be imported,
and compares what it prints with the published values.
"""
