import pytest
import torch
from torch.nn import functional as F

from piclip.decoders.backbones import resize
from piclip.decoders.bam import BAM
from piclip.decoders.base import DecoderOutput
from piclip.decoders.ensemble import (
    Ensemble,
    ShotWeights,
    gram,
    gram_distances,
    known_elsewhere,
)
from piclip.decoders.pspnet import PSPNet
from piclip.decoders.published import load_published
from piclip.errors import ModelError


@pytest.mark.parametrize(
    ("model", "size", "hidden"),
    [
        pytest.param("bam_resnet50_1shot", "97", 2, marks=pytest.mark.slow),
        ("bam_resnet50_5shot", "97", 2),
        pytest.param("bam_resnet50_5shot_ktd0", "97", 0, marks=pytest.mark.slow),
        pytest.param("bam_vgg16bn_1shot", "97", 2, marks=pytest.mark.slow),
        ("bam_vgg16bn_1shot", "105", 2),
        pytest.param("bam_vgg16bn_5shot", "97", 2, marks=pytest.mark.slow),
    ],
)
def test_matches_the_published_network(  # noqa: PLR0915 - a line per map
    golden, reference, recorder, model, size, hidden
):
    shots = 5 if "5shot" in model else 1
    decoder = BAM(
        backbone=model.split("_")[1], published_shots=shots, published_hidden=hidden
    ).eval()
    load_published(decoder, golden.weights(model))
    recorder.watch(decoder)
    inputs, outputs = recorder.inputs, recorder.outputs
    file = f"{model.removesuffix('_ktd0')}_{size}" + ("_ktd0" if hidden == 0 else "")
    expected = reference(file)
    query, supports = expected.tensor("in_x"), expected.tensor("in_s_x")
    masks = expected.tensor("in_s_y")

    with torch.no_grad():
        output = decoder(query, supports, masks)
        weights = outputs["shot_weights"]
        of_query = decoder.query_features(query)
        of_supports = decoder.support_features(supports, masks)
        per_shot = decoder.imagenet_priors(of_query, of_supports, masks)
        prototypes = decoder.prototypes(of_supports, masks)
        distances = inputs["shot_weights"]
    expected.check("query_feat_2", of_query.low)
    expected.check("query_feat_3", of_query.middle)
    expected.check("query_feat_4", of_query.high)
    expected.check("down_query", outputs["reduce_query"])
    expected.check("supp_proto_per_shot", prototypes.transpose(1, 2)[..., None])
    expected.check("supp_proto", inputs["merge"][:, 256:512, :1, :1])
    expected.check("prior_per_shot", per_shot, atol=1e-4)
    expected.check("prior", inputs["merge"][:, 512:], atol=1e-4)

    query_gram = gram(of_query.low)
    support_gram = gram(of_supports.low.unflatten(0, (2, shots))[:, -1])
    expected.check("que_gram", query_gram)
    expected.check("que_gram_c", query_gram[:, ::16, ::16])
    expected.check("supp_gram_last_c", support_gram[:, ::16, ::16])
    expected.check("norm_max", torch.full((2,), float(query_gram.shape[1])))
    expected.check("est_val_total", distances[..., None, None], atol=1e-5)
    expected.check("weight_soft", weights[..., None, None], atol=1e-5)
    distance = (weights * distances).sum(1)
    expected.check("est_val", distance[:, None, None, None], atol=1e-5)
    if shots > 1:
        ascending, order = distances.sort(1)
        expected.check("est_val_sorted", ascending[..., None, None], atol=1e-5)
        expected.check("sort_idx", order[..., None, None])
        with torch.no_grad():
            scores = decoder.shot_weights.scores(decoder.shot_weights.layers, distances)
        expected.check("kshot_logits_unsorted", scores[..., None, None], atol=1e-5)

    expected.check("merge_feat", outputs["merge"])
    expected.check("aspp", outputs["aspp"])
    expected.check("res1", outputs["fuse"])
    expected.check("res2", outputs["refine"])
    expected.check("query_meta", inputs["classifier"])
    meta, base = outputs["classifier"], outputs["base_learner"]
    expected.check("meta_out_low", meta, atol=1e-5)
    expected.check("meta_soft_low", meta.softmax(1), atol=1e-5)
    expected.check("base_out_low", base, atol=1e-5)
    expected.check("base_map", known_elsewhere(base), atol=1e-5)
    joined = outputs["ensemble"]
    expected.check("meta_map_bg_gram", inputs["ensemble.merge"][:, :1], atol=1e-5)
    expected.check("meta_map_fg_gram", joined[:, 1:], atol=1e-5)
    expected.check("merge_bg", joined[:, :1], atol=1e-5)
    expected.check("final_out_low", joined, atol=1e-5)
    expected.check("final_out", output.logits, atol=1e-5)
    expected.check("meta_out", output.auxiliary[0], atol=1e-5)
    expected.check("base_out", output.base_logits, atol=1e-5)

    elsewhere = known_elsewhere(base, expected.tensor("in_cat_idx"))
    expected.check("train_base_map", elsewhere, atol=1e-5)
    with torch.no_grad():
        trained = resize(decoder.ensemble(meta, distance, elsewhere), query.shape[-2:])
    expected.check("train_final_out", trained, atol=1e-5)
    losses = decoder.loss(
        DecoderOutput(trained, output.auxiliary, output.base_logits),
        expected.tensor("in_y_m").long(),
        expected.tensor("in_y_b").long(),
    )
    expected.check("train_main_loss", losses["main"])
    expected.check("train_aux1_meta", losses["auxiliary"])
    expected.check("train_aux2_base", losses["base"])
    total = losses["main"] + losses["auxiliary"] + losses["base"]
    torch.testing.assert_close(losses["loss"], total)
    assert not expected.rest()


def tiny(**options) -> BAM:
    return BAM(
        backbone="tiny",
        backbone_options={"width": 4},
        base_classes=3,
        width=8,
        base_width=8,
        **options,
    )


def test_gram_is_the_cosine_of_channels():
    features = torch.randn(2, 3, 4, 5)
    expected = torch.stack(
        [F.cosine_similarity(f[:, None], f[None], dim=2) for f in features.flatten(2)]
    )
    torch.testing.assert_close(gram(features), expected)


def test_distance_is_zero_for_the_query_itself_and_keeps_the_order_of_supports():
    query, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    supports = torch.stack([other, query], 1).flatten(0, 1)
    distances = gram_distances(query, supports)
    torch.testing.assert_close(distances[:, 1], torch.zeros(2))
    assert (distances[:, 0] > 0).all()


@pytest.mark.parametrize("shots", [1, 2, 5])
@pytest.mark.parametrize(
    "weights", [ShotWeights(), ShotWeights(5), ShotWeights(1)], ids=["own", "five", "one"]
)
def test_weights_sum_to_one_and_follow_the_supports(weights, shots):
    distances = torch.rand(3, shots)
    given = weights(distances)
    torch.testing.assert_close(given.sum(1), torch.ones(3))
    order = torch.randperm(shots)
    torch.testing.assert_close(weights(distances[:, order]), given[:, order])


def test_nearer_supports_count_more():
    weights = ShotWeights()(torch.tensor([[0.3, 0.1, 0.2]]))[0]
    assert weights.argsort(descending=True).tolist() == [1, 2, 0]


def test_the_scale_of_the_weights_is_trained_by_more_than_one_support():
    episode = torch.randn(1, 3, 33, 33), torch.randn(1, 2, 3, 33, 33), torch.ones(1, 2, 33, 33)
    decoder = tiny()
    decoder(*episode).logits[:, 1].mean().backward()
    assert decoder.shot_weights.scale.grad.abs() > 0


def test_the_base_class_of_the_episode_is_not_elsewhere():
    logits = torch.randn(2, 4, 3, 3)
    probabilities = logits.softmax(1)
    torch.testing.assert_close(known_elsewhere(logits)[:, 0], probabilities[:, 1:].sum(1))
    left = known_elsewhere(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(left[0, 0], probabilities[0, 2] + probabilities[0, 3])
    torch.testing.assert_close(left[1, 0], probabilities[1, 1] + probabilities[1, 2])


def test_an_untrained_ensemble_gives_the_meta_learners_probabilities():
    meta = torch.randn(2, 2, 3, 4)
    joined = Ensemble()(meta, torch.rand(2), torch.rand(2, 1, 3, 4))
    torch.testing.assert_close(joined, meta.softmax(1))


def test_the_episodes_class_changes_the_result_in_training():
    decoder = tiny().eval()
    with torch.no_grad():
        decoder.ensemble.merge.weight.fill_(1.0)
    episode = torch.randn(1, 3, 33, 33), torch.randn(1, 1, 3, 33, 33), torch.ones(1, 1, 33, 33)
    with torch.no_grad():
        plain = decoder(*episode)
        known = decoder(*episode, base_class=torch.tensor([1]))
    drop = resize(decoder.base_learner(decoder.query_features(episode[0]).high), (33, 33))
    assert (plain.logits[:, 0] > known.logits[:, 0]).all()
    torch.testing.assert_close(plain.logits[:, 1], known.logits[:, 1])
    torch.testing.assert_close(plain.base_logits, drop)


def test_takes_over_a_trained_base_learner():
    learner = PSPNet(backbone="tiny", classes=3, backbone_options={"width": 4}, width=8).eval()
    decoder = tiny().eval()
    decoder.load_base_learner(learner)
    query = torch.randn(1, 3, 33, 41)
    with torch.no_grad():
        output = decoder(query, torch.randn(1, 1, 3, 33, 41), torch.ones(1, 1, 33, 41))
        torch.testing.assert_close(output.base_logits, learner(query))


def test_refuses_a_base_learner_of_another_kind():
    with pytest.raises(ModelError, match="backbone of this bam"):
        tiny().load_base_learner(
            PSPNet(backbone="tiny", classes=3, backbone_options={"width": 8}, width=8)
        )
    with pytest.raises(ModelError, match="base learner of this bam"):
        tiny().load_base_learner(
            PSPNet(backbone="tiny", classes=4, backbone_options={"width": 4}, width=8)
        )
