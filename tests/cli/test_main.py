"""The frame of the command line: help, version, exit codes, errors in one sentence, speed."""

import json
import subprocess
import sys

import pytest
import typer

import piclip as library
from piclip import cli
from piclip.cli import options
from piclip.clip.encoder import DEFAULT_MODEL
from piclip.errors import UsageError
from piclip.io.images import MAX_PIXELS
from piclip.results import MIN_PRESENCE
from piclip.training_free.scorer import TrainingFreeScorer


def commands(command, path=()):
    """The words of a command and of all under it."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "piclip", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )


@pytest.mark.parametrize("command", list(commands(typer.main.get_command(cli.app))), ids=" ".join)
def test_every_help_has_examples_that_fit_the_screen(piclip, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = piclip(*command, "--help")
    assert ran.code == 0
    assert "Examples:" in ran.out
    assert f"  {' '.join(['piclip', *command])}" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from piclip.cli import main; main(['--help']); "
        "heavy = {'torch', 'transformers', 'matplotlib', 'scipy', 'numpy', 'PIL', 'rich'}; "
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        "segment --support a --mask b --name c --query d --output",
        "priors --support a --mask b --name c --query d --output",
        "evaluate training-free --output",
        "train -c recipe.yaml --output",
        "figure fig4 --dataset scenes --output",
        "calibrate --data a --model b --output",
        "data download fss --out",
        "data episodes scenes --out",
        "data prepare coco --images a --annotations b --out",
        "convert model",
        "demo",
        "segment --support a --mask b --name c --query d --output e --csv",
        "annotate labels --images a --output",
        "table",
    ],
)
def test_an_empty_path_is_not_the_current_folder(piclip, arguments):
    words = arguments.split()
    calls = {words[-1]: [*words, ""]}
    if words[-1].startswith("--"):
        calls[f"{words[-1]}="] = [*words[:-1], f"{words[-1]}="]
    for before, call in calls.items():
        ran = piclip(*call)
        assert ran.code == 2
        assert f"What follows {before} is empty; write" in ran.sentence


def test_the_installed_command_is_this_one():
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="piclip")
    assert entry.load() is cli.main


def test_version(piclip):
    assert piclip("--version").out == f"piclip {library.__version__}\n"


def test_repeated_defaults_are_those_of_the_library():
    assert (options.DEFAULT_MODEL, options.MAX_PIXELS) == (DEFAULT_MODEL, MAX_PIXELS)
    assert DEFAULT_MODEL in cli.demo.demo.__doc__
    assert options.MIN_PRESENCE == MIN_PRESENCE


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["segment"], "--support"),
        (["segment", "--nonsense"], "--nonsense"),
        (["benchmark", "scenes", "--episodes", "none"], "--episodes"),
        (["benchmark", "scenes", "--seeds", "0"], "--seeds"),
        (["convert", "only-one"], "DESTINATION"),
        (["app", "--host", "ü..de"], "--host"),
        (["label-studio", "--host", "ü..de"], "--host"),
    ],
)
def test_a_wrong_command_line_leaves_with_2(piclip, arguments, word):
    ran = piclip(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert word.lower() in ran.err.lower()
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--mask", "other.png"), "2 --mask"),
        (("--name", "horse"), "2 --name"),
        (("--threshold", "1.5"), "threshold"),
        (("--batch-size", "0"), "batch-size"),
        (("--max-pixels", "0"), "max-pixels"),
        (("--device", "abacus"), "abacus"),
        (("--dtype", "int3"), "int3"),
    ],
)
def test_wrong_options_of_segment_leave_with_2(piclip, world, more, word):
    ran = piclip(*world.command(*more))
    assert ran.code == 2
    assert word in ran.err
    assert "Traceback" not in ran.err
    assert not list(world.output.glob("*.png"))


def test_a_login_has_both_parts():
    assert options.login_of(None, "--auth") is None
    assert options.login_of("anna:se:cret", "--auth") == ("anna", "se:cret")
    for wrong in ("", "anna", "anna:", ":secret"):
        with pytest.raises(UsageError, match="Write --auth as user:password"):
            options.login_of(wrong, "--auth")


def test_a_surprise_is_one_sentence_with_the_traceback_on_demand(piclip, world, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a bolt\ncame loose")

    monkeypatch.setattr(TrainingFreeScorer, "score", fails)
    monkeypatch.delenv("PICLIP_DEBUG", raising=False)
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "a bolt came loose" in ran.sentence
    monkeypatch.setenv("PICLIP_DEBUG", "1")
    assert "Traceback" in piclip(*world.command()).err


def test_debug_shows_the_traceback_of_expected_errors(piclip, monkeypatch, tmp_path):
    monkeypatch.setenv("PICLIP_DEBUG", "0")
    command = ("convert", tmp_path / "no.pt", tmp_path / "out")
    assert piclip(*command).sentence
    assert "Traceback" in piclip("--debug", *command).err


def test_too_little_memory_comes_with_advice(piclip, world, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(TrainingFreeScorer, "score", fails)
    assert "--batch-size" in piclip(*world.command()).sentence


def test_ctrl_c_anywhere_is_one_sentence(piclip, world, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(library.FewShotSegmenter, "from_pretrained", interrupted)
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "Stopped" in ran.sentence


def test_exit_codes_reach_the_shell(tmp_path):
    assert run("--version").returncode == 0
    assert run("segment").returncode == 2
    failed = run("convert", "no-such-file.pt", "out", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("piclip: ")


def test_a_reader_that_leaves_early_is_no_error():
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from piclip.cli.console import print_json\n"
            "import sys; from piclip import cli\n"
            "cli.app.command('flood')(lambda: print_json(list(range(200000))))\n"
            "sys.exit(cli.main(['flood']))",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 1


def test_json_survives_any_file_name(capsys):
    from piclip.cli.console import print_json

    print_json({"file": "зебра\udcff.png"})
    assert json.loads(capsys.readouterr().out.encode("ascii")) == {"file": "зебра\udcff.png"}
