"""What the site makes of the code: the tutorial, run, and the reference of the commands."""

import json
import re
from xml.etree import ElementTree

import pytest
import typer

from docs.hooks import commands, formulas, notebook
from piclip.cli import app


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The tutorial's cells, run, and the folder that they were run in."""
    folder = tmp_path_factory.mktemp("tutorial")
    return list(notebook.run(notebook.NOTEBOOK, folder)), folder


def test_the_tutorial_runs_offline_and_does_what_it_tells(tutorial):
    cells, folder = tutorial
    results = [cell.value for cell in cells if type(cell.value).__name__ == "Segmentation"]
    assert len(results) == 2
    assert results[0].class_names == ("cat",) and results[0].mask.any()
    assert results[1].class_names == ("cat", "star")
    (single,) = [cell for cell in cells if cell.source.startswith("def iou")]
    assert float(single.printed) > 0.7
    means = [float(cell.printed.split("mean ")[1]) for cell in cells if "mean " in cell.printed]
    assert len(means) == 2 and min(means) > 0.6
    (compared,) = [cell.printed.splitlines() for cell in cells if "careful.fit" in cell.source]
    without, with_negatives = (int(line.split()[0]) for line in compared)
    assert with_negatives <= without
    assert len(list((folder / "masks").glob("*.png"))) == 6
    assert (folder / "cats-and-stars" / "segmenter.json").is_file()


def test_the_notebook_is_stored_without_outputs():
    stored = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])


def test_its_page_shows_text_code_and_what_the_code_gives(tutorial):
    page = "".join(notebook.in_markdown(cell) for cell in tutorial[0])
    assert page.count("```python\n") == sum(cell.code for cell in tutorial[0])
    assert "## 4. Is it there at all?" in page and "FewShotSegmenter.from_pretrained" in page
    assert page.count("data:image/png;base64,") == 4
    assert "```text\n('cat',)\n```" in page


def test_cells_share_their_names_and_errors_are_raised(tmp_path):
    def stored(*sources):
        cells = [{"cell_type": "code", "source": [source]} for source in sources]
        (tmp_path / "some.ipynb").write_text(json.dumps({"cells": cells}))
        return notebook.run(tmp_path / "some.ipynb", tmp_path)

    first, second = stored("a = 2\nprint('told')", "a + 1")
    assert (first.printed, first.value, second.value) == ("told\n", None, 3)
    with pytest.raises(ZeroDivisionError):
        list(stored("1 / 0"))


def names(command, path):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from names(inner, f"{path} {name}")


def test_every_command_is_in_the_reference_with_every_option():
    root = typer.main.get_command(app)
    helps = dict(commands.helps())
    assert list(helps) == list(names(root, "piclip"))
    assert {"piclip segment", "piclip data check", "piclip benchmark photos"} <= helps.keys()
    page = commands.reference()
    for path, text in helps.items():
        assert f"\n## {path}\n" in page and text in page
        command = root
        for name in path.split()[1:]:
            command = command.commands[name]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[0] in text


def test_a_formula_becomes_a_picture_that_says_what_it_is():
    inline = '<p>so <span class="arithmatex">\\(a &lt; b\\)</span></p>'
    page = inline + '<div class="arithmatex">\\[a\\]</div>'
    drawn = formulas.on_page_content(page)
    pictures = re.findall(r"<svg .*?</svg>", drawn)
    assert [ElementTree.fromstring(each).get("aria-label") for each in pictures] == ["a < b", "a"]
    assert drawn.startswith('<p>so <span class="formula"><svg') and "arithmatex" not in drawn
    with pytest.raises(ValueError, match="Unknown symbol"):
        formulas.svg(r"\nonsense")


def test_every_formula_of_the_pages_can_be_drawn():
    text = (notebook.NOTEBOOK.parent / "method.md").read_text(encoding="utf-8")
    found = [a or b for a, b in re.findall(r"\$\$(.*?)\$\$|\$([^$\n]+)\$", text, re.S)]
    assert len(found) > 30
    for latex in found:
        picture = ElementTree.fromstring(formulas.svg(latex))
        assert len(picture[0].get("d")) > 50
