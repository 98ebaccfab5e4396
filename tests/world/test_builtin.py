import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.scenes import Layout
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from world import builtin, losses, progress, scene_batches
from world.scene_batches import Batches, Stage
from world.world_model import FUNCTION_WORDS, build_model, build_tokenizer

EASY = Layout(64, (1, 1), (32, 58), 0)
TINY = (Stage(3, 4, EASY), Stage(2, 4, Layout(128, (1, 2), (40, 60), 0)))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(scene_batches, "POOL", 1)
    for module in (scene_batches, builtin):
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
        assert torch.equal(one.images, other.images) and torch.equal(one.coverage, other.coverage)
        assert torch.equal(one.chosen, other.chosen) and one.window == other.window
    assert whole[0].images.shape == (4, 64, 64, 3) and whole[4].images.shape == (4, 128, 128, 3)
    assert all(batch.words.sum() >= 3 for batch in whole)


def test_coverage_is_the_share_of_each_patch():
    class_map = np.zeros((16, 16), np.uint8)
    class_map[:8, :4] = 3
    class_map[8:, 8:] = 20
    shares = scene_batches._coverage(class_map)
    assert shares.shape == (4, 21) and np.allclose(shares.sum(1), 1)
    assert shares[0, 0] == shares[0, 3] == 0.5
    assert shares[1, 0] == shares[2, 0] == 1 and shares[3, 20] == 1


def test_what_is_compared_shows_every_kind_and_no_masked_ground():
    rng = np.random.default_rng(0)
    shares = np.zeros((64, 21), np.float32)
    shares[:, 0] = 1
    shares[:3, 0], shares[:3, 5] = 0.2, 0.8
    chosen = np.concatenate([scene_batches._choose(rng, shares, alone=False) for _ in range(50)])
    assert 0.4 < (chosen < 3).mean() < 0.6  # an object of 3 patches as often as the ground of 61
    assert (scene_batches._choose(rng, shares, alone=True) < 3).all()


def test_an_image_is_masked_to_one_of_its_classes():
    image = np.full((8, 8, 3), 200, np.uint8)
    class_map = np.zeros((8, 8), np.uint8)
    class_map[:2], class_map[6:] = 4, 9
    for seed in range(8):
        shown, left = scene_batches._alone(np.random.default_rng(seed), image, class_map)
        (kept,) = np.unique(left[left > 0])
        assert np.array_equal(left == kept, class_map == kept)
        assert (shown[left == kept] == 200).all() and (shown[left == 0] == (123, 117, 104)).all()


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
    for mine, theirs in zip(seen.tokens, encoder.tokens(pixels, (5, 6)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)
    assert seen.projected.shape == (1, 257, 128)


def test_affinity_is_least_where_attention_follows_the_masks():
    thing = torch.zeros(16)
    thing[[0, 1, 4, 5]] = 1
    coverage = torch.stack([1 - thing, thing], dim=1)[None]
    same = coverage @ coverage.mT
    assert losses.affinity_loss(same * 3, coverage) < 0.01  # rows need not sum to one
    assert losses.affinity_loss(torch.full((1, 16, 16), 1 / 16), coverage) > 0.5


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


def test_patches_are_told_apart_objects_and_ground_counting_equally():
    torch.manual_seed(0)
    logits, coverage = torch.randn(1, 6, 2), torch.rand(1, 6, 3)
    coverage = coverage / coverage.sum(-1, keepdim=True)
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for patch in range(6):
        odds = torch.cat([torch.ones(1), logits[0, patch].exp()])  # that it is ground: 1
        loss = -(coverage[0, patch] * (odds / odds.sum()).log()).sum()
        ground = coverage[0, patch, 0]
        for is_ground, weight in ((True, ground), (False, 1 - ground)):
            sums[is_ground][0] += weight * loss
            sums[is_ground][1] += weight
    expected = sum(total / weight for total, weight in sums.values()) / 2
    assert torch.allclose(losses._patch_loss(logits, coverage), expected)


def test_the_last_block_begins_by_passing_on_what_it_attends_to():
    model = build_model(build_tokenizer(), 0)
    passed_on = [
        (layer.self_attn.out_proj.weight @ layer.self_attn.v_proj.weight).diag().mean().item()
        for layer in model.vision_model.encoder.layers
    ]
    assert passed_on == pytest.approx([-0.4] * 5 + [0.4], abs=0.05)


def test_rate_warms_up_and_decays():
    rates = [builtin.rate_factor(step, 1000) for step in range(1000)]
    assert rates[0] == 1 / builtin.WARM_UP and max(rates) == 1.0
    assert rates[round(1000 * builtin.DECAY_FROM)] == 1.0 and rates[-1] == pytest.approx(
        0.02, abs=0.01
    )
