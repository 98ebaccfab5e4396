import pytest
import torch
from torch.nn import functional as F

from piclip.decoders.base import EpisodeFeatures
from piclip.decoders.layers import best_cosine, cross_entropy, masked_average, object_masks
from piclip.decoders.pfenet import PFENet, grid_size
from piclip.decoders.published import load_published
from piclip.errors import UsageError
from piclip.priors import min_max

RATIOS = (1.0, 0.5, 0.25, 0.125)
BINS = (60, 30, 15, 8)


@pytest.mark.parametrize(
    ("backbone", "file", "scales"),
    [
        pytest.param("resnet50", "pfenet_resnet50_1shot_97", BINS, marks=pytest.mark.slow),
        ("resnet50", "pfenet_resnet50_1shot_97_ratio", RATIOS),
        pytest.param("resnet50", "pfenet_resnet50_5shot_97", BINS, marks=pytest.mark.slow),
        pytest.param("vgg16bn", "pfenet_vgg16bn_1shot_97", BINS, marks=pytest.mark.slow),
        ("vgg16bn", "pfenet_vgg16bn_1shot_105", BINS),
        pytest.param("vgg16bn", "pfenet_vgg16bn_5shot_97", BINS, marks=pytest.mark.slow),
    ],
)
def test_matches_the_published_network(  # noqa: PLR0915 - a line per map
    golden, reference, recorder, backbone, file, scales
):
    decoder = PFENet(backbone=backbone, scales=scales).eval()
    load_published(decoder, golden.weights(f"pfenet_{backbone}"))
    recorder.watch(decoder)
    inputs, outputs = recorder.inputs, recorder.outputs
    expected = reference(file)
    query, supports = expected.tensor("in_x"), expected.tensor("in_s_x")
    masks, target = expected.tensor("in_s_y"), expected.tensor("in_y").long()
    shots = masks.shape[1]

    with torch.no_grad():
        of_query = decoder.query_features(query)
        of_supports = decoder.support_features(supports, masks)
        prototypes = decoder.prototypes(of_supports, masks)
        weights = torch.full((2, shots), 1 / shots)
        prior = decoder.prior_maps(EpisodeFeatures(of_query, of_supports, masks), weights)
        output = decoder(query, supports, masks)
    size = of_query.middle.shape[-2:]
    expected.check("query_feat_2", of_query.low)
    expected.check("query_feat_3", of_query.middle)
    expected.check("query_feat_4", of_query.high)
    expected.check("supp_feat_4_last", of_supports.high.unflatten(0, (2, shots))[:, -1])
    expected.check("supp_mask_feat_last", object_masks(masks, size).unflatten(0, (2, shots))[:, -1])
    expected.check("down_query", outputs["reduce_query"])
    expected.check("down_supp_last", outputs["reduce_support"].unflatten(0, (2, shots))[:, -1])
    expected.check("supp_proto_per_shot", prototypes[..., None, None])
    expected.check("supp_proto", inputs["merge.0"][:, 256:512, :1, :1])
    per_shot = decoder.imagenet_priors(of_query, of_supports, masks)
    expected.check("prior_per_shot", per_shot, atol=1e-4)
    expected.check("prior", prior, atol=1e-4)

    for scale, features in enumerate(inputs["fuse"].split(256, 1)):
        expected.check(f"init_merge_{scale}", outputs[f"merge.{scale}"])
        expected.check(f"beta_conv_{scale}", outputs[f"refine.{scale}"])
        expected.check(f"inner_out_{scale}", outputs[f"inner_classifiers.{scale}"])
        expected.check(f"pyramid_feat_{scale}", features)
    for scale in (1, 2, 3):
        expected.check(f"alpha_conv_{scale}", outputs[f"interscale.{scale - 1}"])
    expected.check("s3_query_feat_bin", inputs["merge.3"][:, :256:2])
    expected.check("s3_prior_bin", inputs["merge.3"][:, 512:], atol=1e-4)
    expected.check("s3_pre_feat_bin", inputs["interscale.2"][:, 256::2])
    expected.check("s3_init_merge", outputs["merge.3"][:, ::2])
    expected.check("s3_alpha", outputs["interscale.2"][:, ::2])
    expected.check("s3_after_alpha", inputs["refine.3"][:, ::2])
    expected.check("s3_beta", outputs["refine.3"][:, ::2])
    expected.check("s3_after_beta", inputs["inner_classifiers.3"][:, ::2])

    expected.check("res1", outputs["fuse"])
    expected.check("res2", outputs["refine_fused"])
    expected.check("final_feat", inputs["classifier"])
    expected.check("out_low", outputs["classifier"])
    expected.check("out", output.logits)
    expected.check("pred_fg_count", output.logits.argmax(1).sum((1, 2)))
    losses = decoder.loss(output, target)
    expected.check("main_loss", losses["main"])
    expected.check("aux_loss", losses["auxiliary"])
    torch.testing.assert_close(losses["loss"], losses["main"] + losses["auxiliary"])
    assert not expected.rest()


def test_the_prior_is_the_best_cosine_of_each_query_position():
    query, support = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 2, 6)
    support[:, :, :, 0] = 0
    expected = torch.empty(2, 3, 4)
    for item in range(2):
        for row in range(3):
            for column in range(4):
                expected[item, row, column] = max(
                    F.cosine_similarity(query[item, :, row, column], column_of, dim=0)
                    for column_of in support[item].flatten(1).T
                )
        low, high = expected[item].min(), expected[item].max()
        expected[item] = (expected[item] - low) / (high - low)
    torch.testing.assert_close(min_max(best_cosine(query, support))[:, 0], expected)


def test_prototypes_are_means_over_the_mask_and_255_is_not_the_object():
    features = torch.randn(1, 4, 3, 5)
    masks = torch.tensor([0, 1, 255]).repeat(5).reshape(1, 1, 3, 5)
    inside = features[0, :, masks[0, 0] == 1]
    soft = object_masks(masks, features.shape[-2:])
    expected = inside.sum(1) / (inside.shape[1] + 0.0005)
    torch.testing.assert_close(masked_average(features, soft), expected[None])


@pytest.mark.parametrize(
    ("scale", "size"),
    [(8, (8, 8)), (1, (1, 1)), (1.0, (13, 7)), (0.5, (6, 3)), (0.125, (1, 1)), (0.01, (1, 1))],
)
def test_grid_of_a_scale(scale, size):
    assert grid_size(scale, 13, 7) == size


@pytest.mark.parametrize("scales", [[], [60, 0], [1.5], [0.0]])
def test_impossible_scales_are_refused(scales):
    with pytest.raises(UsageError, match="scales"):
        PFENet(backbone="tiny", scales=scales)


@pytest.mark.parametrize("prior", ["piclip", "none"])
@torch.no_grad()
def test_stage_4_is_not_read_without_its_prior(prior):
    options = {"backbone": "tiny", "backbone_options": {"width": 4}, "width": 8, "scales": [5, 3]}
    decoder = PFENet(**options, prior=prior).eval()
    for parameter in decoder.backbone.stages[4].parameters():
        parameter.fill_(torch.nan)
    priors = torch.rand(1, 2, 5, 5) if prior == "piclip" else None
    images = torch.randn(1, 3, 33, 33)
    assert decoder(images, images[None], torch.ones(1, 1, 33, 33), priors).logits.isfinite().all()


def test_cross_entropy_is_zero_where_everything_is_ignored():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 3, 3), 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
