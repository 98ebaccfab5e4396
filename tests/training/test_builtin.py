import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.glyphs import CLASS_NAMES
from piclip.datasets.scenes import Layout
from piclip.training import builtin, captioned_batches, losses
from piclip.training.captioned_batches import Batches, Stage
from piclip.training.muon import Muon, orthogonalise
from piclip.training.world_model import FUNCTION_WORDS, build_model, build_tokenizer

EASY = Layout(64, (1, 1), (32, 58), 0)
TINY = (Stage(3, 2, EASY, EASY), Stage(2, 2, Layout(128, (1, 2), (40, 60), 0), EASY))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(captioned_batches, "POOL", 1)
    for module in (captioned_batches, builtin):
        monkeypatch.setattr(module, "CURRICULUM", TINY)
    monkeypatch.setattr(builtin, "CHECKPOINT_EVERY", 1)


def test_every_word_of_the_world_is_one_token_and_any_text_is_encoded():
    tokenizer = build_tokenizer()
    for word in (*CLASS_NAMES, *FUNCTION_WORDS):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1, word
    strange = "zebra \u6591\u99ac \u00dcn\u00efcode"
    assert tokenizer.unk_token_id not in tokenizer.encode(strange, add_special_tokens=False)


def test_the_vocabulary_is_the_same_in_every_process():
    # A resumed run builds it anew: a token with another number would find another embedding.
    code = (
        "import json; from piclip.training.world_model import build_tokenizer;"
        "print(json.dumps(build_tokenizer().get_vocab()))"
    )
    elsewhere = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert elsewhere == build_tokenizer().get_vocab() == build_tokenizer().get_vocab()


def test_batches_are_a_pure_function_of_the_step(tiny):
    whole = list(Batches(5))
    later = list(Batches(5, start=2))
    assert len(whole) == 5 and len(later) == 3
    for one, other in zip(whole[2:], later, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.words, other.words)
        assert one.window == other.window
    assert whole[0].images.shape == (2, 64, 64, 3) and whole[4].images.shape == (2, 128, 128, 3)
    assert all(batch.words.any(-1).all() for batch in whole)


def test_cells_are_the_quarters_of_the_image():
    numbers = torch.arange(16.0).view(1, 16, 1)
    cells = losses._cells(numbers)[0, :, :, 0]
    assert cells.tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_a_run_that_was_stopped_ends_with_the_same_weights(tiny, tmp_path):
    # One thread: several add up gradients in an order that changes from run to run.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = builtin.train(tmp_path / "whole", "cpu")
    builtin.train(tmp_path / "parts", "cpu", stop_after=0.0)
    parts = builtin.train(tmp_path / "parts", "cpu")
    torch.set_num_threads(threads)
    assert whole.step == parts.step == 5
    for one, other in zip(whole.average.parameters(), parts.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_exported_folder_loads(tiny, tmp_path):
    from piclip import FewShotSegmenter

    run = builtin.train(tmp_path / "run", "cpu", stop_after=0.0)
    builtin.export(run, tmp_path / "model")
    encoder = FewShotSegmenter.from_pretrained(tmp_path / "model", device="cpu").encoder
    assert encoder.image_size == 128 and encoder.attention_blocks == 4
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert weights < 16e6


def test_training_attention_is_the_encoders(tiny, tmp_path):
    # What the affinity loss shapes must be what refinement reads.
    from piclip.clip.encoder import Encoder

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, 3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3), np.uint8))
    with torch.no_grad():
        tokens, attention = losses.image_tokens(model, images, (0, 0))
        encoder = Encoder(model, tokenizer, attention_blocks=4, device="cpu")
        pixels = ((images / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(
            0, 3, 1, 2
        )
        encoding = encoder.encode(pixels)
    rows = encoding.attention / encoding.attention.sum(-1, keepdim=True)
    assert torch.allclose(rows, attention, atol=1e-5)
    assert tokens.shape == (1, 257, 128)


def test_affinity_is_least_where_attention_follows_the_classes():
    logits = torch.full((1, 4, 4, 20), -9.0)
    logits[0, 0, :, 3] = 9.0  # the first cell shows class 3 all over, the rest is ground
    words = torch.zeros(1, 4, 20, dtype=torch.bool)
    words[..., 3] = True
    numbers = losses._cells(torch.arange(16).view(1, 16, 1)).flatten()
    thing = torch.zeros(16)
    thing[numbers[:4]] = 1
    same = (thing[:, None] == thing[None]).float()
    good = (same / same.sum(1, keepdim=True))[None]
    uniform = torch.full((1, 16, 16), 1 / 16)
    assert losses._affinity_loss(good, logits, words) < 0.01
    assert losses._affinity_loss(uniform, logits, words) > 0.5


def test_muon_makes_singular_values_about_one_and_descends():
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), steps=8))
        assert values.min() > 0.5 and values.max() < 1.3
    weight = torch.nn.Parameter(torch.randn(6, 6))
    target = torch.randn(6, 6)
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(60):
        loss = ((weight - target) ** 2).sum()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 5


def test_rate_warms_up_and_decays():
    rates = [builtin.rate_factor(step, 1000) for step in range(1000)]
    assert rates[0] == 0.02 and max(rates) == 1.0
    assert rates[500] == 1.0 and rates[-1] == pytest.approx(0.02, abs=0.01)
