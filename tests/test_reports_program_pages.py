"""Help of every command and examples are in the pages as the programs have them."""

from pathlib import Path

import pytest
import typer

from qkov import cli
from reports import program_pages

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_every_command_is_shown_with_its_options():
    texts = program_pages.help_texts()
    program = typer.main.get_command(cli.app)
    assert set(texts) >= {"qkov", *(f"qkov {name}" for name in program.commands)}
    assert {f"qkov store {name}" for name in program.commands["store"].commands} <= set(texts)
    for option in program.commands["plan"].params:
        if option.param_type_name == "option":
            assert option.opts[0] in texts["qkov plan"]


def test_a_new_command_appears():
    app = typer.Typer(rich_markup_mode=None)
    app.command("one")(lambda: None)
    app.command("two", help="Say nothing.")(lambda: None)
    texts = program_pages.help_texts(typer.main.get_command(app))
    assert list(texts) == ["qkov", "qkov one", "qkov two"]
    page = program_pages.commands_page(texts)
    assert "### qkov two" in page
    assert "Say nothing." in page


def test_every_example_is_on_the_page(tmp_path):
    page = program_pages.examples_page(EXAMPLES, tmp_path / "generated" / "examples")
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.rglob("*.sbatch")]:
        name = path.relative_to(EXAMPLES).as_posix()
        assert f"```{{literalinclude}} generated/examples/{name}\n" in page
        assert (tmp_path / "generated" / "examples" / name).read_bytes() == path.read_bytes()
        assert program_pages.opening(path), f"{name} does not say what it is"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", '"""First.\n\nMore."""\n', "First.\n\nMore."),
        ("a.py", "x = 1\n", ""),
        ("a.sh", "#!/bin/sh\n# First,\n# second.\nls\n# no\n", "First,\nsecond."),
        ("a.sbatch", "#!/bin/bash\n#SBATCH --nodes=2\n# Says.\n", "Says."),
    ],
)
def test_an_example_opens_with_what_it_is(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    assert program_pages.opening(tmp_path / name) == said
