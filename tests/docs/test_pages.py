"""The pages of the documentation: links, names, commands and messages in them are there."""

import ast
import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml

from docs.hooks.commands import reference
from docs.hooks.repository import BESIDE, links_on_site
from piclip.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / path for path in BESIDE if "md" in path)]
)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAME = re.compile(r"`(piclip(?:\.\w+)+)`")


def text_of(page):
    """A page without what is printed as code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)


def anchors(page):
    """What its headings are called in addresses."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title)).strip("-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_in_it(page):
    for path, anchor in LINK.findall(text_of(page)):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert target.is_relative_to(ROOT)
        if anchor and not (target.name == "commands.md" and anchor.startswith("piclip-")):
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_is_in_the_navigation_of_the_site():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": (\S+\.md)$", text.split("\nnav:")[1], re.M)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(pages | {path for path in BESIDE if path.endswith(".md")})


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("how-to-coco.md", "../benchmarks/README.md#memory", "benchmarks/README.md#memory"),
        ("how-to-coco.md", "formats.md#in", "formats.md#in"),
        ("api/priors.md", "../method.md", "../method.md"),
        ("benchmarks/README.md", "../docs/photographs.md", "../photographs.md"),
        ("benchmarks/scenes5i/README.md", "../../src/a/CARD.md", "../../src/a/CARD.md"),
        ("CONTRIBUTING.md", "docs/photographs.md", "photographs.md"),
        ("index.md", "#here", "#here"),
        ("index.md", "https://arxiv.org/abs/2405.08458", "https://arxiv.org/abs/2405.08458"),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(page, link, expected):
    known = {*BESIDE, "benchmarks/README.md", "CONTRIBUTING.md"}
    assert page in known or (DOCS / page).is_file()
    assert links_on_site(f"see [it]({link}).", page) == f"see [it]({expected})."


def there(name):
    """Whether a dotted name can be had."""
    module, *attributes = name.split(".")
    found = import_module(module)
    for attribute in attributes:
        module = f"{module}.{attribute}"
        found = getattr(found, attribute, None) or import_module(module)
    return found is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_of_the_code_is_there(page):
    names = set(NAME.findall(page.read_text(encoding="utf-8")))
    names |= set(re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M))
    for name in names - {"piclip.json"}:
        assert there(name)


TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
TEXTS["piclip --help, and that of every command"] = reference()
PICLIP = typer.main.get_command(app)
OPTIONS = set(re.findall(r"--[a-z][\w-]*", reference()))
OPTIONS.update(*(re.findall(r'"(--[a-z-]+)"', f.read_text()) for f in ROOT.glob("world/*.py")))
OPTIONS.add("--use_original_imgsize")  # HSNet's


def command_lines(text):
    """What follows `piclip` in blocks of code; and within sentences, where it may be only begun."""
    fenced = re.findall(r"```(?:ba)?sh\n(.*?)```", text, re.S)
    code = "\n".join([*fenced, *re.findall(r"^    .*$", text, re.M)]).replace("\\\n", " ")
    for line in re.findall(r"^ *(?:\w+=\S+ )*piclip (.+)$", code, re.M):
        yield re.sub(r"\$\{?[\w@]+\}?", "1", line), "..." in line or "--help" in line
    for line in re.findall(r"`piclip\s([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S)):
        yield line, True


def check_command(line, begun):
    """Refuses what the command line would refuse."""
    command, words = PICLIP, shlex.split(line, comments=True)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] == "COMMAND":
            return
        command, words = command.commands[words[0]], words[1:]
    if not begun:
        command.make_context(command.name, words)
    known = {"--help"}.union(*(parameter.opts for parameter in command.params))
    assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_line_is_one_that_piclip_takes(page):
    for line, begun in command_lines(TEXTS[page]):
        check_command(line, begun)


@pytest.mark.parametrize("page", TEXTS)
def test_every_option_is_one_of_a_command(page):
    assert set(re.findall(r"`(--[a-z][\w-]*)", TEXTS[page])) <= OPTIONS


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("segmnt", "segmnt"),
        ("app --prot 80", "No such option"),
        ("app --port many", "valid integer"),
        ("data check", "Missing parameter"),
    ],
)
def test_a_command_line_that_piclip_refuses_is_noticed(line, why):
    with pytest.raises(Exception, match=why):
        check_command(line, begun=False)


def test_an_option_that_there_is_not_is_noticed_in_a_command_that_is_only_begun():
    with pytest.raises(AssertionError, match="--prot 80"):
        check_command("app --prot 80 ...", begun=True)


def named(pattern):
    """What matches in any page."""
    return {name for text in TEXTS.values() for name in re.findall(pattern, text, re.M)}


def test_every_test_that_a_page_names_is_there():
    tests = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("tests/**/test_*.py"))
    assert named(r"`(test_\w+)`") <= set(re.findall(r"^def (test_\w+)", tests, re.M))


def test_every_target_that_a_page_makes_is_one_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = " ".join(re.findall(r"^([a-z -]+):", makefile, re.M)).split()
    assert named(r"(?:^ *|`)make ([a-z-]+)(?=`|  +#|$)") <= set(targets)


def test_each_formula_says_where_it_is_in_the_code():
    """Between a formula and the next heading a name of the code follows."""
    sections = re.split(r"^## ", (DOCS / "method.md").read_text(encoding="utf-8"), flags=re.M)
    formulas = [section for section in sections if "$$" in section]
    assert len(formulas) == 5
    for section in formulas:
        assert NAME.search(section.rpartition("$$")[2]), section.splitlines()[0]
        assert section.count("$$") % 2 == 0


@cache
def messages():
    """Every text in the code, with … where a value comes in."""
    texts = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                texts.append("".join(parts))
    return texts


def quotes():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^> .+\n)+", text, re.M)
    return [re.sub(r"\n?^> ", " ", block, flags=re.M).strip() for block in blocks]


def in_order(fragments, text):
    """Whether these pieces come one after the other in a text."""
    pattern = ".*".join(re.escape(piece.strip()) for piece in fragments if piece.strip())
    return re.search(pattern, text, re.S) is not None


@pytest.mark.parametrize("quote", quotes())
def test_each_message_that_is_explained_is_one_of_the_code(quote):
    fragments = quote.split("…")
    assert max(map(len, fragments)) > 12, "a quote needs words of its own"
    assert any(in_order(fragments, message) for message in messages())


def test_a_message_that_is_not_in_the_code_is_noticed():
    assert len(quotes()) > 20
    assert not any(
        in_order(["The device", "is made of cheese; choose"], message) for message in messages()
    )


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == import_module("piclip").__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    (paper,) = citation["references"]
    assert paper["url"] in (ROOT / "README.md").read_text(encoding="utf-8")
