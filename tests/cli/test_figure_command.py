"""``piclip figure`` on scenes."""

import pytest
import torch
from PIL import Image

from piclip.decoders.networks import build_decoder
from piclip.errors import OutputError, UsageError

COMMAND = "figure"
SMALL = ("--dataset", "scenes", "--option", "val_images=40", "--rows", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "run"
    decoder = build_decoder("pfenet", backbone="tiny", prior="imagenet", width=16)
    decoder.save_pretrained(folder / "decoder")
    (folder / "recipe.yaml").write_text("fold: 0\naugmentation: {size: 49}\n")
    return folder


@pytest.mark.parametrize("name", ["fig1", "fig3", "fig4"])
def test_each_figure_is_written(run, baseline, tmp_path, name):
    output = tmp_path / f"{name}.png"
    given = () if name == "fig4" else ("--baseline", baseline)
    assert name in run(name, "--output", output, *SMALL, *given).err
    with Image.open(output) as image:
        assert image.width > 900
        assert image.height > 200


def test_wrong_requests_are_one_sentence(run, tmp_path):
    output = tmp_path / "f.png"
    for arguments, sentence in (
        (("fig2", *SMALL), "fig1, fig3, fig4"),
        (("fig1", *SMALL), "--baseline"),
        (("fig1", *SMALL, "--baseline", "training-free"), "needs a trained decoder"),
        (("fig4",), "--dataset scenes"),
    ):
        with pytest.raises(UsageError, match=sentence):
            run(*arguments, "--output", output)
    assert not output.exists()


def test_a_file_that_cannot_be_written_is_told_before_anything_is_drawn(run, tmp_path, monkeypatch):
    monkeypatch.setattr("piclip.cli.evaluation_runs.EvaluateRequest.view", None)
    for output, error, sentence in (
        (tmp_path / "f.txt", UsageError, "cannot be saved as 'f.txt'; end"),
        (tmp_path / "f", UsageError, "cannot be saved as 'f'; end"),
        (tmp_path / "folder.png", OutputError, "a folder is where the file should be"),
    ):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        with pytest.raises(error, match=sentence):
            run("fig4", *SMALL, "--output", output)
