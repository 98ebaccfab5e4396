"""What is seen with one tower and with two, and that a cache changes nothing but the time."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from piclip.clip.cache import MemoryCache
from piclip.clip.preprocessing import to_pixels
from piclip.clip.prompts import text_prototypes
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.vision import Vision
from squares import Colours, pillow

IMAGE, MASK = pillow()
WIDE, WIDE_MASK = pillow(size=(40, 100))


def pixels(image, tower, size):
    return to_pixels(image, size, tower.settings.mean, tower.settings.std)[None]


def test_one_tower_is_compared_and_read_in_one_pass(encoder):
    vision = Vision(encoder, encoder)
    assert vision.blocks == (4, 6) and len(vision.sizes(IMAGE)) == 1
    seen = vision.see([IMAGE, pillow(seed=1)[0]])
    expected = encoder.encode(pixels(IMAGE, encoder, (64, 64)), (4, 6))
    assert seen.grid == seen.encoding.grid == (8, 8) and seen.tokens.shape == (2, 2, 64, 192)
    for ours, theirs in zip(seen.tokens, expected.tokens, strict=True):
        assert_close(ours[:1], normalize(theirs, dim=-1), atol=1e-5, rtol=0)
    assert_close(seen.encoding.attention[:1], expected.attention, atol=1e-5, rtol=0)


def test_two_towers_see_each_at_its_own_size(encoder, vit):
    vision = Vision(vit, encoder)
    assert vision.blocks == (2, 3) and vision.sizes(IMAGE) == ((72, 72), (64, 64))
    seen = vision.see([IMAGE])
    assert seen.grid == (6, 6) and seen.encoding.grid == (8, 8)
    theirs = vit.tokens(pixels(IMAGE, vit, (72, 72)), (2, 3))
    assert_close(seen.tokens, torch.stack([normalize(part, dim=-1) for part in theirs]))
    alone = encoder.encode(pixels(IMAGE, encoder, (64, 64)))
    assert_close(seen.encoding.last, alone.last)
    # In one answer all maps are on the grid of the tower that is compared.
    texts = encoder.encode_text(["a", "b"])
    evidence = ContrastEvidence(vision)
    memory = evidence.learn("thing", [(WIDE, WIDE_MASK)], texts, [])
    answer = evidence.answer(seen, [memory], None)
    assert {maps.shape for maps in answer.maps.values()} == {(1, 1, 6, 6)}


def test_blocks_are_those_of_the_settings():
    tower = Colours()
    tower.settings = tower.settings.__class__(64, blocks=(3, 5, 6))
    tower.depth = 8
    assert Vision(tower).blocks == (3, 5, 6)
    assert Vision(tower, settings=replace(tower.settings, blocks=(7,))).blocks == (7,)
    assert tower.settings.blocks == (3, 5, 6)


def test_texts_are_a_name_and_its_absence_for_each_class(encoder, vit):
    vision = Vision(vit, encoder)
    synonyms = {"cat": ["cat", "kitten"]}
    texts = vision.texts(["cat", "dog"], synonyms)
    assert texts.shape == (2, 2, 128)
    present, absent = text_prototypes(encoder.encode_text, ["cat", "dog"], synonyms)
    assert_close(texts, torch.stack([present, absent], dim=1))
    assert_close(texts.norm(dim=-1), torch.ones(2, 2))
    assert_close(vision.texts(["dog"], None)[0], texts[1], atol=1e-5, rtol=0)
    assert not torch.allclose(vision.texts(["cat"], None)[0], texts[0], atol=1e-3)


def test_without_a_clip_there_are_no_texts(vit):
    assert Vision(vit).texts(["cat", "dog"], {"cat": ["kitten"]}).shape == (2, 0, 0)


@pytest.mark.parametrize("towers", ["one", "two", "vit"])
def test_a_cache_gives_the_same_memory_and_encodes_once(encoder, vit, towers, monkeypatch):
    def vision(cache=None):
        if towers == "vit":
            return Vision(vit, None, cache)
        return Vision(encoder if towers == "one" else vit, encoder, cache)

    asked = []
    for tower, name in ((encoder, "encode"), (encoder, "tokens"), (vit, "tokens")):
        original = getattr(tower, name)

        def counted(*given, original=original):
            asked.append(original)
            return original(*given)

        monkeypatch.setattr(tower, name, counted)
    texts = torch.zeros(0, 0) if towers == "vit" else encoder.encode_text(["a", "b"])
    examples = [(IMAGE, MASK), (WIDE, WIDE_MASK)]
    negatives = [pillow(None)[0]]
    plain = ContrastEvidence(vision()).learn("a", examples, texts, negatives)
    evidence = ContrastEvidence(vision(MemoryCache()))
    first = evidence.learn("a", examples[:1], texts, negatives)
    before = len(asked)
    kept = evidence.learn("a", examples, texts, negatives)
    # The second support whole, by each tower, and its object closely, by the one that compares.
    assert len(asked) - before == (3 if towers == "two" else 2)
    for field in ("count", "tokens", "coverage", "owner", "texts", "agreement", "named", "level"):
        assert_close(getattr(kept, field), getattr(plain, field), msg=field)
    again = evidence.learn("a", examples[:1], texts, negatives)
    assert len(asked) - before == (3 if towers == "two" else 2)
    assert torch.equal(again.tokens, first.tokens) and torch.equal(again.level, first.level)
