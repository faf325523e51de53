"""Why a goal is not reached: looked up when the page is made. A missed goal without an entry is a complaint."""

MISSED = {}
"""``{goal name: a sentence for the page}``."""
