import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.scenes import Layout
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from world import affinity, builtin, captioned_batches, losses
from world.captioned_batches import Batches, Stage
from world.muon import Muon, orthogonalise
from world.world_model import FUNCTION_WORDS, build_model, build_tokenizer

EASY = Layout(64, (1, 1), (32, 58), 0)
TINY = (
    Stage(3, 2, EASY, EASY, 0.0),
    Stage(2, 2, Layout(128, (1, 2), (40, 60), 0), EASY, 2.0),
)


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


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process():
    # A resumed run builds it anew: a token with another number would find another embedding.
    code = (
        "import json; from world.world_model import build_tokenizer;"
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
        assert (one.window, one.roll) == (other.window, other.roll)
    assert whole[0].images.shape == (2, 64, 64, 3) and whole[4].images.shape == (2, 128, 128, 3)
    assert all(batch.words.any(-1).all() for batch in whole)


def test_cells_are_the_quarters_of_the_image():
    numbers = torch.arange(16.0).view(1, 16, 1)
    cells = affinity.cells(numbers, (0, 0))[0, :, :, 0]
    assert cells.tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_cells_are_found_again_in_a_rolled_mosaic():
    named = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 64, 1)
    mosaic = affinity.patches(named, (0, 0)).view(16, 16)
    assert mosaic[0, 0] == 0 and mosaic[0, 15] == 1 and mosaic[15, 0] == 2 and mosaic[15, 15] == 3
    rolled = mosaic.roll((3, 13), dims=(0, 1)).reshape(1, 256, 1)
    assert torch.equal(affinity.cells(rolled, (3, 13)), named)
    assert torch.equal(affinity.patches(named, (3, 13)), rolled)


def test_mosaics_are_rolled_as_their_batch_says(tiny, monkeypatch):
    def rolled_only(tiles, size):
        pattern = np.zeros((size, size, 3), np.uint8)
        pattern[:8, :8] = 255  # one patch, at the top left
        return pattern

    monkeypatch.setattr(captioned_batches, "_mosaic", rolled_only)
    batches = list(Batches(5))
    assert len({batch.roll for batch in batches}) > 1
    for batch in batches:
        down, right = batch.roll
        assert (batch.images[1, 8 * down : 8 * down + 8, 8 * right : 8 * right + 8] == 255).all()


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
    pixels = ((images / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 3, 1, 2)
    before = torch.zeros(1, 256, 256)
    for blocks in range(1, 5):
        encoder = Encoder(model, tokenizer, attention_blocks=blocks, device="cpu")
        together = encoder.encode(pixels).attention * blocks
        of_block = together - before
        rows = of_block / of_block.sum(-1, keepdim=True)
        assert torch.allclose(rows, attention[:, -blocks], atol=1e-5), blocks
        before = together
    assert tokens.shape == (1, 257, 128) and attention.shape == (1, 4, 256, 256)


def test_affinity_is_least_where_attention_follows_the_classes():
    thing = torch.zeros(16)
    thing[[0, 1, 4, 5]] = 1
    guess = torch.stack([1 - thing, thing], dim=1)[None]
    same = guess @ guess.transpose(1, 2)
    good = (same / same.sum(-1, keepdim=True))[:, None]
    uniform = torch.full((1, 1, 16, 16), 1 / 16)
    assert affinity.affinity_loss(good, guess) < 0.01
    assert affinity.affinity_loss(uniform, guess) > 0.5
    # Every block counts by itself: a good one does not make up for another.
    both = affinity.affinity_loss(torch.cat([good, uniform], dim=1), guess)
    assert both > 0.4 * affinity.affinity_loss(uniform, guess)


def test_the_guess_fills_an_object_up_to_its_edges():
    # A red square on grey, of which only the middle was recognised; its class alone is named.
    image = torch.full((1, 128, 128, 3), 128, dtype=torch.uint8)
    image[:, 32:96, 32:96] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 4:12] = True
    presence = torch.full((16, 16, 20), 0.02)
    presence[5:11, 5:11, 3] = 0.9
    presence[:, :, 7] = 0.9  # everywhere, but no caption names it
    words = torch.zeros(1, 256, 20, dtype=torch.bool)
    words[..., 3] = True
    alike = (inside.flatten()[:, None] == inside.flatten()[None]).float()
    guess = affinity.guess_classes(
        image, (alike / alike.sum(-1, keepdim=True))[None], presence.view(1, 256, 20), words
    )
    assert torch.allclose(guess.sum(-1), torch.ones(1, 256))
    assert torch.equal(guess[0].argmax(-1).view(16, 16) == 4, inside)
    assert guess[..., 8].max() == 0


def test_silence_asks_the_patches_that_speak_least():
    logits = torch.full((1, 10, 20), 9.0)
    named = torch.zeros(1, 20, dtype=torch.bool)
    named[0, 3] = True
    assert losses._silence_loss(logits, named, 0.5) > 8
    logits[0, :5, 3] = -9.0  # half of the patches call class 3 absent; nobody asks for the others
    assert losses._silence_loss(logits, named, 0.5) < 0.01
    assert losses._silence_loss(logits, named, 0.8) > 1


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
