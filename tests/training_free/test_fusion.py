import torch

from piclip.clip.settings import ModelSettings
from piclip.training_free.evidence import evidence_logits, fuse
from piclip.training_free.learning import calibrate

DEFAULT = torch.tensor([1.0, 1.0, 0.0])


def test_fuse_equals_the_plain_formula():
    torch.manual_seed(0)
    maps = torch.rand(2, 2, 3, 3) * 0.8 + 0.1
    weights = torch.tensor([0.7, -0.2, 0.3])
    for b in range(2):
        for y in range(3):
            for x in range(3):
                p, q = maps[b, :, y, x].double()
                z = 0.7 * torch.log(p / (1 - p)) - 0.2 * torch.log(q / (1 - q)) + 0.3
                expected = 1 / (1 + torch.exp(-z))
                assert abs(fuse(maps, weights)[b, y, x] - expected) < 1e-5


def test_certain_maps_stay_finite():
    maps = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert torch.isfinite(evidence_logits(maps)).all()
    assert 0 < fuse(maps, DEFAULT).item() < 1


def test_calibration_finds_the_map_that_tells_the_truth():
    torch.manual_seed(0)
    truth = (torch.rand(1, 16, 16) < 0.2).float()
    honest = truth * 0.6 + 0.2
    noise = torch.rand(1, 16, 16)
    weights = calibrate(torch.stack([noise, honest], 1), truth, DEFAULT, strength=0.01)
    assert weights[1] > 1.5 > abs(weights[0]) * 3


def test_a_firm_prior_keeps_the_default():
    torch.manual_seed(0)
    truth = (torch.rand(1, 8, 8) < 0.3).float()
    maps = torch.rand(1, 2, 8, 8)
    weights = calibrate(maps, truth, DEFAULT, strength=1e6)
    assert torch.allclose(weights, DEFAULT, atol=1e-3)


def test_calibration_minimises_its_objective():
    torch.manual_seed(0)
    truth = (torch.rand(2, 8, 8) < 0.3).float()
    maps = (truth[:, None] * 0.3 + torch.rand(2, 2, 8, 8) * 0.7).clamp(0, 1)

    def objective(weights):
        inputs = evidence_logits(maps).double().movedim(1, -1).flatten(0, -2)
        target = truth.double().flatten()
        share = target.mean()
        importance = target / share + (1 - target) / (1 - share)
        importance = importance / importance.sum() * 2
        logits = inputs @ weights[:-1] + weights[-1]
        fit = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target, weight=importance, reduction="sum"
        )
        return fit + 0.5 * 0.1 * ((weights - DEFAULT) ** 2).sum()

    best = calibrate(maps, truth, DEFAULT.double(), strength=0.1)
    lowest = objective(best)
    for _ in range(20):
        assert objective(best + 0.05 * torch.randn(3).double()) > lowest


def test_default_weights_go_from_one_support_to_many():
    settings = ModelSettings(128, fusion=(1, 1, 1, 1, 0), fusion_many=(3, 1, 1, 1, -2))
    assert settings.fusion_for(1) == (1, 1, 1, 1, 0)
    assert settings.fusion_for(5) == settings.fusion_for(50) == (3, 1, 1, 1, -2)
    assert 1 < settings.fusion_for(2)[0] < settings.fusion_for(3)[0] < 3
