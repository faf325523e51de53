"""Two executions of a notebook agree in every byte, or the difference is shown."""

import sys

import nbformat

from reports import controls, notebooks

WRITES = """\
import os, sys
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
_ = axes.imshow([[1, 2], [3, 4]])
plt.show()
print(sorted(os.listdir()), os.environ["OMP_NUM_THREADS"], hash("qkov"))
print(sys.executable)
open("left-behind", "w").close()
"""


def write(path, *sources):
    """Write a notebook with the given code cells."""
    head, fence = controls.HEADER.rsplit("\n", 2)[0], controls.HEADER.splitlines()[-1]
    path.write_text(head + "\n" + "".join(f"{fence}\n{source}\n```\n\n" for source in sources))
    return path


def execution(*outputs, source="print(1)"):
    """An execution made by hand, with one code cell for each list of outputs."""
    cells = [
        nbformat.v4.new_code_cell(source, outputs=list(given), execution_count=1, id=f"cell-{index}")
        for index, given in enumerate(outputs)
    ]
    return notebooks.Execution("made", nbformat.writes(nbformat.v4.new_notebook(cells=cells), version=4), (), 1.0)


def text(value):
    """Output of a cell that prints."""
    return nbformat.v4.new_output("stream", name="stdout", text=value)


def test_planted_notebooks_are_judged_as_they_must_be(tmp_path):
    planted = {control.name: control for control in controls.run_controls(tmp_path)}
    assert planted.keys() == {*controls.CONTROLS, controls.CLEAN[0]}
    for control in planted.values():
        assert control.passed, f"{control.name}: {control.said}"
    said = planted["random-number"].said
    assert said.startswith("first difference: cell 0")
    assert len([line for line in said.splitlines() if line.startswith(("-0.", "+0."))]) == 2, "both numbers are shown"
    assert " score 1.25" in said, "and what repeats around them"


def test_control_fails_when_the_comparison_is_blind():
    blind = notebooks.Comparison("random-number", "text", (), "", 1, 1.0)
    assert not controls.judge(blind).passed
    refused = notebooks.Comparison(controls.CLEAN[0], "text", (), "first difference", 1, 1.0)
    assert not controls.judge(refused).passed


def test_kernel_is_bounded_isolated_and_repeatable(tmp_path):
    source = write(tmp_path / "figure.md", WRITES)
    (comparison,) = notebooks.execute_twice([source], jobs=1, timeout=60)
    assert comparison.passed, comparison.difference or comparison.problems
    assert comparison.num_cells == 1
    outputs = nbformat.reads(comparison.text, as_version=4).cells[0].outputs
    assert "image/svg+xml" in outputs[0].data
    listing, executable = outputs[1].text.splitlines()
    assert listing.startswith("[] 1 "), "the second execution does not see the files of the first"
    assert executable == sys.executable
    assert "language_info" not in comparison.text


def test_slow_cell_is_a_problem_not_a_crash(tmp_path):
    result = notebooks.execute(write(tmp_path / "slow.md", "import time; time.sleep(60)"), timeout=1)
    assert "CellTimeoutError" in result.problems[0]


def test_notebook_without_code_does_not_pass(tmp_path):
    first = notebooks.Execution("empty", nbformat.writes(nbformat.v4.new_notebook(), version=4), (), 1.0)
    assert not notebooks.compare(first, first).passed


def test_first_differing_cell_is_named_with_its_source():
    first, second = execution([text("same")], [text("1\n2\n3")]), execution([text("same")], [text("1\n5\n3")])
    difference = notebooks.compare(first, second).difference
    assert difference.startswith("first difference: cell 1\n    print(1)")
    assert "-2\n+5" in difference


def test_long_lines_of_a_difference_are_cut():
    first, second = execution([text("a" * 5000)]), execution([text("b" * 5000)])
    assert "... (5001 characters)" in notebooks.compare(first, second).difference


def test_difference_outside_the_cells_is_found():
    first = execution([text("same")])
    second = notebooks.Execution("made", first.text.replace('"metadata": {}', '"metadata": {"a": 1}', 2), (), 1.0)
    assert not notebooks.compare(first, second).identical


def test_missing_cell_is_found():
    difference = notebooks.compare(execution([text("same")]), execution([text("same")], [])).difference
    assert difference.startswith("first difference: outside the cells")


def test_figure_size_is_no_address():
    shown = nbformat.v4.new_output("display_data", {"text/plain": "<Figure size 640x480 with 1 Axes>"})
    notebook = nbformat.reads(execution([shown]).text, as_version=4)
    assert notebooks.find_problems(notebook) == []


def test_address_in_html_is_found():
    shown = nbformat.v4.new_output("display_data", {"text/html": "<b>object at 0x7f12345678</b>"})
    notebook = nbformat.reads(execution([shown]).text, as_version=4)
    assert notebooks.find_problems(notebook) == ["cell 0 shows an object address: 0x7f12345678"]
