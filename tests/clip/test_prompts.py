"""Prompts against the reference's text features and the plain formula."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from piclip.clip.conversion import clip_from_state_dict
from piclip.clip.prompts import (
    BACKGROUND,
    FOREGROUND,
    REFERENCE_BACKGROUND,
    REFERENCE_FOREGROUND,
    class_names,
    fill_templates,
    synonym_table,
    text_prototypes,
)
from piclip.errors import UsageError


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "priors_upstream_small.npz") as arrays:
        return {key: arrays[key] for key in arrays if "/" not in key}


class Encoder:
    """A text encoder with a fixed random vector of any length per text; counts its calls."""

    def __init__(self, width=5):
        self.width, self.calls, self.vectors = width, 0, {}

    def __call__(self, texts):
        self.calls += 1
        for text in texts:
            if text not in self.vectors:
                generator = torch.Generator().manual_seed(sum(map(ord, text)) + len(text))
                self.vectors[text] = 7 * torch.randn(self.width, generator=generator)
        return torch.stack([self.vectors[text] for text in texts])


def unit(vector):
    return vector / np.sqrt((vector**2).sum())


def test_prototypes_match_the_reference_text_features(golden, shared):
    model = clip_from_state_dict(load_file(shared / "golden" / "tiny_openai_clip.safetensors"))
    tokens = {}
    for kind, template in (("fg", REFERENCE_FOREGROUND), ("bg", REFERENCE_BACKGROUND)):
        for wording, row in zip(golden["prompt_names"], golden[f"{kind}_tokens"], strict=True):
            tokens[template.replace("{}", str(wording))] = torch.from_numpy(row).long()

    def encode_text(texts):  # the reference's own tokens, looked up by the exact text
        with torch.inference_mode():
            return model.get_text_features(torch.stack([tokens[t] for t in texts])).pooler_output

    foreground, background = text_prototypes(
        encode_text,
        class_names("voc"),
        synonym_table("voc-reference"),
        foreground_templates=REFERENCE_FOREGROUND,
        background_templates=REFERENCE_BACKGROUND,
    )
    np.testing.assert_allclose(foreground, golden["fg_text_features"], atol=1e-4)
    np.testing.assert_allclose(background, golden["bg_text_features"], atol=1e-4)


def test_reference_texts_end_with_a_full_stop(golden):
    # CLIP's vocabulary starts with the printable bytes from "!" on, then the same ending a word.
    full_stop, end_of_text = 256 + ord(".") - ord("!"), 49407
    for rows in (golden["fg_tokens"], golden["bg_tokens"], golden["coco_fg_tokens"]):
        for row in rows:
            assert row[row.tolist().index(end_of_text) - 1] == full_stop


@pytest.mark.parametrize(("dataset", "prefix"), [("voc", ""), ("coco", "coco_")])
def test_names_and_reference_wordings_are_the_references(golden, dataset, prefix):
    names = class_names(dataset)
    table = synonym_table(f"{dataset}-reference")
    assert list(names) == golden[f"{prefix}class_names"].tolist()
    assert [table.get(n, n) for n in names] == golden[f"{prefix}prompt_names"].tolist()


def test_corrected_tables_differ_only_where_the_reference_slips():
    def changed(dataset):
        ours, reference = synonym_table(dataset), synonym_table(f"{dataset}-reference")
        return {n for n in class_names(dataset) if ours.get(n, n) != reference.get(n, n)}

    assert changed("voc") == {"diningtable", "pottedplant", "tvmonitor"}
    assert changed("coco") == changed("voc") | {
        "snowboard", "baseball glove", "spoon", "hair drier",
    }  # fmt: skip
    assert "snowboard" not in synonym_table("coco")  # called by its name
    assert synonym_table("coco")["hair drier"] == "hair drier,blow drier"


@pytest.mark.parametrize("table", ["voc", "voc-reference", "coco", "coco-reference"])
def test_every_entry_belongs_to_a_class(table):
    assert set(synonym_table(table)) <= set(class_names(table.removesuffix("-reference")))


def test_a_table_can_be_changed_without_changing_the_next():
    synonym_table("voc")["bird"] = "changed"
    assert synonym_table("voc")["bird"] == "bird avian"


def test_prompts_of_a_users_own_class_use_the_name_itself():
    assert fill_templates(FOREGROUND, "bird") == ["a photo of bird"]
    assert fill_templates(BACKGROUND, "bird") == ["a photo without bird"]
    assert fill_templates(FOREGROUND, "bird", synonym_table("voc")) == ["a photo of bird avian"]


def test_every_wording_goes_into_every_template():
    synonyms = {"sofa": ["sofa", "couch"]}
    foreground = fill_templates(["a {}", "one {} {here}"], "sofa", synonyms)
    assert set(foreground) == {"a sofa", "a couch", "one sofa {here}", "one couch {here}"}
    background = fill_templates(BACKGROUND, "sofa", synonyms)
    assert background == ["a photo without sofa", "a photo without couch"]


def mean_direction(encoder, wordings, templates):
    units = [unit(encoder([t.format(w)])[0].double().numpy()) for w in wordings for t in templates]
    return unit(np.mean(units, axis=0))


@given(
    wordings=st.lists(st.sampled_from(["cat", "dog", "couch", "żubr", "two words"]), min_size=1),
    templates=st.lists(st.sampled_from([FOREGROUND, BACKGROUND, "{}", "a {}."]), min_size=1),
)
def test_a_prototype_is_the_plain_formula(wordings, templates):
    encoder = Encoder()
    found = text_prototypes(
        encoder,
        ["sofa"],
        {"sofa": wordings},
        foreground_templates=templates,
        background_templates=templates[::-1],
    )
    expected = mean_direction(encoder, wordings, templates)
    for (prototype,) in found:
        np.testing.assert_allclose(prototype, expected, atol=1e-5)


def test_prototypes_of_several_classes_come_from_one_call():
    synonyms = {"sofa": ("sofa", "couch", "settee"), "bird": "bird avian"}
    names = ["bird", "sofa", "zebra"]
    templates = ["a photo of {}", "the {} in the picture"]
    encoder = Encoder()
    foreground, background = text_prototypes(
        encoder, names, synonyms, foreground_templates=templates
    )
    assert encoder.calls == 1
    assert foreground.shape == background.shape == (3, 5)
    for row, wordings in enumerate([["bird avian"], synonyms["sofa"], ["zebra"]]):
        expected = mean_direction(encoder, wordings, templates)
        np.testing.assert_allclose(foreground[row], expected, atol=1e-5)
        expected = mean_direction(encoder, wordings, [BACKGROUND])
        np.testing.assert_allclose(background[row], expected, atol=1e-5)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {0}", ""])
def test_a_template_without_exactly_one_place_is_refused(template):
    with pytest.raises(UsageError, match="exactly once"):
        text_prototypes(Encoder(), ["cat"], foreground_templates=template)
    with pytest.raises(UsageError, match="exactly once"):
        text_prototypes(Encoder(), ["cat"], background_templates=[BACKGROUND, template])


@pytest.mark.parametrize("name", ["", "  "])
def test_a_blank_name_or_wording_is_refused(name):
    with pytest.raises(UsageError, match="blank"):
        text_prototypes(Encoder(), [name])
    with pytest.raises(UsageError, match="blank"):
        text_prototypes(Encoder(), ["cat"], {"cat": ["cat", name]})


def test_nothing_to_embed_is_refused():
    with pytest.raises(UsageError, match="class name"):
        text_prototypes(Encoder(), [])
    with pytest.raises(UsageError, match="template"):
        text_prototypes(Encoder(), ["cat"], foreground_templates=[])
    with pytest.raises(UsageError, match="blank"):
        text_prototypes(Encoder(), ["cat"], {"cat": []})


def test_an_unknown_table_or_dataset_names_the_known_ones():
    with pytest.raises(UsageError, match="voc, voc-reference, coco, coco-reference"):
        synonym_table("ade20k")
    with pytest.raises(UsageError, match="voc, coco"):
        class_names("voc-reference")
