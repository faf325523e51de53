"""The published methods appendix: LaTeX text, tables and numbers from the evidence, each with its source."""
