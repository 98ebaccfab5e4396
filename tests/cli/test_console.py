"""What commands print for people."""

import pytest

from piclip.cli.console import print_some, writing


@pytest.mark.parametrize(("count", "rest"), [(20, []), (21, ["  ... and 1 more, see [there]"])])
def test_of_many_lines_the_first_are_printed_and_where_the_others_are(capsys, count, rest):
    lines = [f"line {number}" for number in range(count)]
    print_some(lines, "see [there]")
    assert capsys.readouterr().err.splitlines() == [f"  {line}" for line in lines[:20]] + rest


def test_a_place_that_looks_like_markup_is_written_to():
    entered = []
    with writing("[bold]found[/red]"):
        entered.append(True)
    assert entered
