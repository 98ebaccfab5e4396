import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.scenes import Layout
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from world import builtin, captioned_batches, losses, progress
from world.captioned_batches import PARTS, Batches, Stage
from world.world_model import FUNCTION_WORDS, build_model, build_tokenizer

EASY = Layout(64, (1, 1), (32, 58), 0)
TINY = (
    Stage(3, 2, EASY, EASY, guess=False),
    Stage(2, 2, Layout(128, (1, 2), (40, 60), 0), EASY, guess=True),
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(captioned_batches, "POOL", 1)
    for module in (captioned_batches, builtin):
        monkeypatch.setattr(module, "CURRICULUM", TINY)
    monkeypatch.setattr(builtin, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(progress, "EPISODES", 1)


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
    other_part = next(iter(Batches(5, 1)))
    assert not torch.equal(whole[0].images, other_part.images)


def test_cells_are_the_quarters_of_the_image():
    numbers = torch.arange(16.0).view(1, 16, 1)
    cells = losses.cells(numbers, (0, 0))[0, :, :, 0]
    assert cells.tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_cells_are_found_again_in_a_rolled_mosaic():
    named = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 64, 1)
    mosaic = losses.patches(named, (0, 0)).view(16, 16)
    assert mosaic[0, 0] == 0 and mosaic[0, 15] == 1 and mosaic[15, 0] == 2 and mosaic[15, 15] == 3
    rolled = mosaic.roll((3, 13), dims=(0, 1)).reshape(1, 256, 1)
    assert torch.equal(losses.cells(rolled, (3, 13)), named)
    assert torch.equal(losses.patches(named, (3, 13)), rolled)


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


def test_a_mosaic_shows_its_tiles_at_half_the_size():
    tiles = [np.full((64, 64, 3), shade, np.uint8) for shade in (10, 20, 30, 40)]
    for size in (64, 96, 128):
        mosaic = captioned_batches._mosaic(tiles, size)
        half = size // 2
        assert mosaic.shape == (size, size, 3)
        assert (mosaic[:half, :half] == 10).all() and (mosaic[:half, half:] == 20).all()
        assert (mosaic[half:, :half] == 30).all() and (mosaic[half:, half:] == 40).all()


def test_all_but_some_patches_are_in_the_mean_colour():
    images = torch.full((1, 16, 16, 3), 200, dtype=torch.uint8)
    kept = torch.tensor([[False, True, False, False]])
    shown = losses.leave_alone(images, kept)[0]
    assert (shown[:8, 8:] == 200).all()
    assert (shown[8:] == torch.tensor([123, 117, 104])).all()
    assert (shown[:8, :8] == torch.tensor([123, 117, 104])).all()


def test_one_class_is_left_and_its_patches_are_compared():
    guess = torch.zeros(40, 64, 21)
    guess[:, :, 0] = 1
    guess[:, :20] = torch.eye(21)[5]
    guess[:, 20:30] = torch.eye(21)[9]
    generator = torch.Generator().manual_seed(0)
    kept = losses._one_class(guess, generator)
    fives = kept[:, :20].all(1) & ~kept[:, 20:].any(1)
    nines = kept[:, 20:30].all(1) & ~kept[:, :20].any(1) & ~kept[:, 30:].any(1)
    assert (fives | nines).all() and 20 <= fives.sum() <= 33  # two thirds of what is shown
    chosen = losses._choose(kept[..., None].float(), generator)
    assert kept.gather(1, chosen).float().mean() > 0.8  # nines have 10 patches for 16
    every = losses._choose(guess, generator)
    ground = (every >= 30).float().mean()
    assert 0.25 < ground < 0.42  # of 34 patches no more often than of 10


def test_the_guess_fills_an_object_of_a_class_that_is_named():
    # Only the middle of a square was recognised; the attention follows the square.
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 4:12] = True
    presence = torch.full((16, 16, 20), 0.02)
    presence[4:12, 4:12, 3] = 0.4
    presence[5:11, 5:11, 3] = 0.9
    presence[:, :, 7] = 0.9  # everywhere, but no caption names it
    words = torch.zeros(1, 256, 20, dtype=torch.bool)
    words[..., 3] = True
    same = (inside.flatten()[:, None] == inside.flatten()[None]).float()
    guess = losses.guess_classes(same[None], presence.view(1, 256, 20), words)
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


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_weights(tiny, tmp_path):
    builtin.train(tmp_path / "whole", "cpu")
    builtin.train(tmp_path / "parts", "cpu", stop_after=0.0)
    builtin.train(tmp_path / "parts", "cpu")
    whole, parts = (builtin.Run(tmp_path / name, "cpu") for name in ("whole", "parts"))
    assert whole.step == parts.step == 5
    for one, other in zip(whole.average.parameters(), parts.average.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_processes_that_share_the_parts_learn_what_one_learns(tmp_path):
    # Spawned processes know nothing of a test's patches: the real curriculum, one step of it.
    for workers in (1, PARTS):
        builtin.train(tmp_path / str(workers), "cpu", stop_after=0.0, workers=workers)
    one, shared = (builtin.Run(tmp_path / str(workers), "cpu") for workers in (1, PARTS))
    assert one.step == shared.step == 1
    for mine, theirs in zip(one.model.parameters(), shared.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3)


def test_the_exported_folder_loads(tiny, tmp_path):
    from piclip import FewShotSegmenter

    builtin.train(tmp_path / "run", "cpu", stop_after=0.0)
    builtin.export(builtin.Run(tmp_path / "run", "cpu"), tmp_path / "model")
    encoder = FewShotSegmenter.from_pretrained(tmp_path / "model", device="cpu").encoder
    assert encoder.image_size == 128 and encoder.attention_blocks == 4
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert weights < 16e6


def test_training_sees_what_the_encoder_sees():
    # What the losses shape must be what refinement and the comparison of patches read.
    from piclip.clip.encoder import Encoder

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, 3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3), np.uint8))
    with torch.no_grad():
        seen = losses.look(model, images, (0, 0))
    pixels = ((images / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 3, 1, 2)
    before = Encoder(model, tokenizer, attention_blocks=1, device="cpu").encode(pixels).attention
    for blocks in range(2, 5):
        encoder = Encoder(model, tokenizer, attention_blocks=blocks, device="cpu")
        together = encoder.encode(pixels).attention * blocks
        of_block = torch.nn.functional.normalize(together - before, p=1, dim=-1)
        mine = torch.nn.functional.normalize(seen.attention[1 - blocks], p=1, dim=-1)
        assert torch.allclose(of_block, mine, atol=1e-5), blocks
        before = together
    for mine, theirs in zip(seen.tokens, encoder.tokens(pixels, (4, 5, 6)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)
    assert seen.projected.shape == (1, 257, 128)


def test_affinity_is_least_where_attention_follows_the_guess():
    thing = torch.zeros(16)
    thing[[0, 1, 4, 5]] = 1
    guess = torch.stack([1 - thing, thing], dim=1)[None]
    same = guess @ guess.mT
    assert losses.affinity_loss(same * 3, guess) < 0.01  # rows need not sum to one
    assert losses.affinity_loss(torch.full((1, 16, 16), 1 / 16), guess) > 0.5


def test_patches_are_alike_by_the_densities_of_other_images():
    torch.manual_seed(0)
    tokens = torch.randn(12, 5)
    owner = torch.arange(4).repeat_interleave(3)
    labels = torch.rand(12, 3) * (torch.arange(3) < 2)  # of the third kind there is none
    labels = labels / labels.sum(1, keepdim=True)
    directions = tokens / tokens.norm(dim=1, keepdim=True)
    expected = []
    for i in range(12):
        others = [j for j in range(12) if owner[j] != owner[i]]
        density = [
            sum(
                labels[j, k] * torch.exp(losses.SHARPNESS * (directions[i] @ directions[j] - 1))
                for j in others
            )
            / sum(labels[j, k] for j in others)
            for k in range(2)
        ]
        chances = torch.stack(density) / sum(density)
        expected.append(-(labels[i, :2] * chances.log()).sum())
    found = losses.alike_loss(tokens, labels, owner)
    assert torch.allclose(found, torch.stack(expected).mean(), atol=1e-5)


def test_rate_warms_up_and_decays():
    rates = [builtin.rate_factor(step, 1000) for step in range(1000)]
    assert rates[0] == 1 / builtin.WARM_UP and max(rates) == 1.0
    assert rates[round(1000 * builtin.DECAY_FROM)] == 1.0 and rates[-1] == pytest.approx(
        0.02, abs=0.01
    )
