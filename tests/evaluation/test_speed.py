"""The mechanics of the speed benchmark on a tiny model; what it measures is asserted nowhere."""

import json
from dataclasses import replace

import pytest
import torch

from piclip.errors import PiclipError, UsageError
from piclip.evaluation.benchmarks import speed, workload
from piclip.evaluation.benchmarks.speed import RATIOS, RESET, peak_memory, run_speed_benchmark
from piclip.evaluation.benchmarks.workload import (
    Workload,
    plain_forward,
    query_priors,
    random_classes,
    random_encoder,
    random_query,
    reference_priors,
)

TINY = Workload(
    image_size=64, patch_size=16, width=32, depth=2, heads=2, embed_dim=16, large=(90, 70)
)
PEAKS = {"plain": 2.0, "priors": 3.0, "predict_large": 321.4}
STAGES = ["encoding", "text prior", "visual prior", "refinement"]


def test_report_holds_the_ratios_of_its_own_medians(monkeypatch):
    monkeypatch.setattr(speed, "peak_memory", lambda *_: PEAKS)
    monkeypatch.setattr(speed, "has_bfloat16", lambda: True)
    rounds_seen = []
    threads = torch.get_num_threads()
    report = run_speed_benchmark(
        workload=TINY, threads=1, rounds=3, on_round=lambda *pair: rounds_seen.append(pair)
    )
    assert torch.get_num_threads() == threads
    assert rounds_seen == [(1, 3), (2, 3), (3, 3)]
    ratios = report.ratios
    assert list(ratios) == list(RATIOS) and report.segment_per_second > 0
    assert all(ratios[name] > 0 for name in RATIOS if name != "extra_class")
    further = (ratios["twenty_classes"] - ratios["one_class"]) / 19
    assert ratios["extra_class"] == pytest.approx(further)
    assert ratios["memory"] == pytest.approx(1.5)
    assert list(report.stages) == list(report.stages_twenty) == STAGES
    written = json.loads(json.dumps(report.as_dict()))
    assert written["workload"]["depth"] == 2 and ratios.items() <= written.items()
    assert len(report.rows()) == 11
    assert [row[1] for row in report.amounts()][1] == "321 MiB"
    assert [row[0] for row in report.breakdown()] == STAGES


def test_ratios_are_of_medians(monkeypatch):
    stage_seconds = iter([9.0, 9.0] + [2.2, 5.9] * 3)  # the first round is not counted
    monkeypatch.setattr(speed, "has_bfloat16", lambda: False)
    seconds = {"plain": 2.0, "predict_one": 2.4, "predict_twenty": 5.0}
    seconds |= {"predict_large": 7.0, "segment": 8.0, "fit": 3.0}
    seconds |= {"reference_one": 4.6, "reference_twenty": 9.0}
    monkeypatch.setattr(speed, "_seconds", lambda stage, _: {stage: seconds[stage]})
    monkeypatch.setattr(
        speed, "query_priors", lambda *_: {"encoding": next(stage_seconds), "refinement": 0.1}
    )
    report = run_speed_benchmark(workload=TINY, threads=1, rounds=3, measure_memory=False)
    expected = {
        "one_class": 1.15,
        "twenty_classes": 3.0,
        "extra_class": 1.85 / 19,
        "predict_one_class": 1.2,
        "predict_twenty_classes": 2.5,
        "predict_large": 3.5,
        "reference_one_class": 2.3,
        "reference_twenty_classes": 4.5,
        "fit": 1.5,
        "memory": None,
        "bf16_over_fp32": None,
    }
    assert report.ratios == pytest.approx(expected)
    assert report.segment_per_second == pytest.approx(0.5)
    assert report.stages == {"encoding": 2.2, "refinement": 0.1}
    assert report.breakdown()[0] == ("encoding", "1.100", "2.950")
    shown = {row[0]: row[1] for row in report.rows()}
    assert shown["bfloat16 / float32"] == "not measurable here"
    assert shown["peak memory / plain forward"] == "not measurable here"
    assert [row[1] for row in report.amounts()] == ["0.50", "not measurable here"]


def test_the_plain_pass_and_the_priors_see_the_same_tokens():
    small = Workload(image_size=224, patch_size=16, width=32, depth=2, heads=2, embed_dim=16)
    encoder, pixels = random_encoder(small), random_query(small)
    # At 224 pixels the model's position embeddings are not resized, so the passes agree.
    torch.testing.assert_close(
        plain_forward(encoder, pixels)[:, 1:], encoder.encode(pixels).last, atol=1e-5, rtol=0
    )
    assert encoder.model.vision_model.config._attn_implementation == "sdpa"
    times = query_priors(encoder, pixels, random_classes(small, 2, encoder.dtype))
    assert list(times) == STAGES


def test_the_published_order_encodes_twice_and_makes_the_same_maps_class_by_class(monkeypatch):
    encoder, pixels = random_encoder(TINY), random_query(TINY)
    classes = random_classes(TINY, 3, encoder.dtype)
    encoded, maps = [], []
    encode, refine = type(encoder).encode, workload.refine_prior
    monkeypatch.setattr(
        type(encoder), "encode", lambda self, given: encoded.append(given) or encode(self, given)
    )

    def noted(text_maps, attention):
        maps.append(refine(text_maps, attention))
        return maps[-1]

    monkeypatch.setattr(workload, "refine_prior", noted)
    query_priors(encoder, pixels, classes)
    reference_priors(encoder, pixels, classes)
    assert len(encoded) == 1 + 2
    assert [m.shape[1] for m in maps] == [3, 1, 1, 1]
    torch.testing.assert_close(torch.cat(maps[1:], dim=1), maps[0], atol=1e-5, rtol=0)


@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the peak")
@pytest.mark.slow
def test_peak_memory_sees_what_a_pass_holds():
    # The plain pass holds at least the MLP's activations of every token.
    workload = Workload(image_size=448, patch_size=8, width=64, depth=1, heads=2, embed_dim=16)
    peaks = peak_memory(workload, 1, ["plain", "priors"])
    assert list(peaks) == ["plain", "priors"]
    assert 56 * 56 * 4 * 64 * 4 <= 2**20 * peaks["plain"] < 200 * 2**20


@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the peak")
@pytest.mark.slow
def test_a_large_photograph_takes_less_than_the_scores_of_all_its_pixels():
    workload = replace(TINY, large=(2000, 1500))
    [peak] = peak_memory(workload, 1, ["predict_large"]).values()
    assert 2000 * 1500 * 3 <= 2**20 * peak < 20 * 2000 * 1500 * 4  # less than twenty maps


@pytest.mark.slow
def test_a_measuring_process_that_fails_is_told():
    if not RESET.exists():
        assert peak_memory(TINY, 1) == {}
        return
    with pytest.raises(PiclipError, match="measures memory failed"):
        peak_memory(Workload(heads=5), 1)


def test_wrong_requests_are_refused():
    with pytest.raises(UsageError, match="at least one round"):
        run_speed_benchmark(workload=TINY, rounds=0)
