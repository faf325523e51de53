"""Sphinx extension: a numbered figure around anything, such as a picture that a notebook has made.

```{numbered-picture} fig-name
:caption: What it shows.

(any content)
```
"""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective


class NumberedPicture(SphinxDirective):
    """A figure with a name and a caption; its content is parsed as usual."""

    required_arguments = 1
    has_content = True
    option_spec = {"caption": directives.unchanged_required}  # noqa: RUF012 -- docutils asks for it in this form

    def run(self):
        """Make the figure node that Sphinx numbers."""
        figure = nodes.figure("", names=[nodes.fully_normalize_name(self.arguments[0])], align="center")
        self.set_source_info(figure)
        self.state.nested_parse(self.content, self.content_offset, figure)
        words, messages = self.state.inline_text(self.options["caption"], self.lineno)
        figure += nodes.caption("", "", *words)
        self.state.document.note_explicit_target(figure, figure)
        return [figure, *messages]


def setup(app):
    """Register with Sphinx."""
    app.add_directive("numbered-picture", NumberedPicture)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
