"""From evidence to a book: notebooks executed twice and compared, tables, and a self-contained set of pages.

`python -m reports` does all of it. It reads what `python -m validation` wrote and imports nothing of the measurement.
"""
