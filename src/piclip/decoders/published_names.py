"""How the tensors of published checkpoints are called, and how ours are."""

from __future__ import annotations

from collections.abc import Iterator

from piclip.decoders.key_map import KeyMap

STAGES = tuple((f"layer{stage}", f"backbone.stages.{stage}") for stage in range(5))
"""The backbone in every published few-shot network."""

_BLOCKS = tuple((f"layer{stage}", f"stages.{stage}") for stage in range(1, 5))

SEMSEG_RESNET = KeyMap(
    pairs=(
        ("conv1", "stages.0.0"),
        ("bn1", "stages.0.1"),
        ("conv2", "stages.0.3"),
        ("bn2", "stages.0.4"),
        ("conv3", "stages.0.6"),
        ("bn3", "stages.0.7"),
        *_BLOCKS,
    ),
    dropped=("fc",),
)

TORCHVISION_RESNET = KeyMap(
    pairs=(("conv1", "stages.0.0"), ("bn1", "stages.0.1"), *_BLOCKS), dropped=("fc",)
)

_VGG_STARTS = (0, 7, 14, 24, 34, 44)
TORCHVISION_VGG = KeyMap(
    pairs=tuple(
        (f"features.{layer}", f"stages.{stage}.{layer - _VGG_STARTS[stage]}")
        for stage in range(5)
        for layer in range(_VGG_STARTS[stage], _VGG_STARTS[stage + 1])
    ),
    dropped=("classifier",),
)

PSPNET = KeyMap(
    pairs=(
        *STAGES,
        ("ppm.features", "head.pooling.branches"),
        ("cls.0", "head.fuse.0"),
        ("cls.1", "head.fuse.1"),
        ("cls.4", "head.classifier"),
    ),
    aliases=tuple((f"layer{stage}", f"encoder.{stage}") for stage in range(5)),
)

PFENET = KeyMap(
    pairs=(
        *STAGES,
        ("down_query", "reduce_query"),
        ("down_supp", "reduce_support"),
        ("init_merge", "merge"),
        ("alpha_conv", "interscale"),
        ("beta_conv", "refine"),
        ("inner_cls", "inner_classifiers"),
        ("res1", "fuse"),
        ("res2", "refine_fused"),
        ("cls", "classifier"),
    )
)

BAM = KeyMap(
    pairs=(
        *STAGES,
        ("learner_base.0.features", "base_learner.pooling.branches"),
        ("learner_base.1.0", "base_learner.fuse.0"),
        ("learner_base.1.1", "base_learner.fuse.1"),
        ("learner_base.1.4", "base_learner.classifier"),
        ("down_query", "reduce_query"),
        ("down_supp", "reduce_support"),
        ("init_merge", "merge"),
        ("ASPP_meta.layer6_0", "aspp.average"),
        *((f"ASPP_meta.layer6_{branch + 1}", f"aspp.branches.{branch}") for branch in range(4)),
        ("res1_meta", "fuse"),
        ("res2_meta", "refine"),
        ("cls_meta", "classifier"),
        ("kshot_rw", "shot_weights.layers"),
        ("gram_merge", "ensemble.adjust"),
        ("cls_merge", "ensemble.merge"),
    )
)

_ATTENTION_BLOCK = (
    ("norm1", "attention_norm"),
    ("attn.attn.linear_q", "attention.query"),
    ("attn.attn.linear_k", "attention.key"),
    ("attn.attn.linear_v", "attention.value"),
    ("attn.attn.linear_o", "attention.output"),
    ("attn.sr", "attention.reduction"),
    ("attn.norm", "attention.reduction_norm"),
    ("norm2", "feedforward_norm"),
    ("ffn.layers.0", "feedforward.expand"),
    ("ffn.layers.1", "feedforward.position"),
    ("ffn.layers.4", "feedforward.contract"),
)


def _matching_pairs(levels: int = 3, blocks: int = 2) -> Iterator[tuple[str, str]]:
    for level in range(levels):
        down, match = f"down_sample_layers.{level}", f"match_layers.{level}"
        own = f"levels.{level}"
        yield f"{down}.0", f"{own}.embedding"
        yield f"{down}.{blocks + 1}", f"{own}.norm"
        yield f"{match}.1.conv", f"{own}.fusion.conv"
        yield f"{match}.1.bn", f"{own}.fusion.norm"
        yield f"parse_layers.{level}", f"{own}.refinement"
        for theirs, ours in _ATTENTION_BLOCK:
            yield f"{match}.0.{theirs}", f"{own}.matching.{ours}"
            for block in range(blocks):
                yield f"{down}.{block + 1}.{theirs}", f"{own}.blocks.{block}.{ours}"
    yield "cls", "classifier"


MATCHING = KeyMap(
    pairs=tuple((f"mix_transformer.{theirs}", ours) for theirs, ours in _matching_pairs())
)
"""The matching alone: names behind ``transformer.`` and those of ``HierarchicalMatching``."""

HDMNET = KeyMap(
    pairs=(
        *STAGES,
        ("ppm.features", "base_learner.pooling.branches"),
        ("cls.0", "base_learner.fuse.0"),
        ("cls.1", "base_learner.fuse.1"),
        ("base_learnear.2", "base_learner.classifier"),  # published with this spelling
        ("down_query", "reduce_query"),
        ("down_supp", "reduce_support"),
        ("query_merge", "merge_query"),
        ("supp_merge", "merge_support"),
        *((f"transformer.{theirs}", f"matching.{ours}") for theirs, ours in MATCHING.pairs),
        ("kshot_rw", "shot_weights.layers"),
        ("gram_merge", "ensemble.adjust"),
        ("cls_merge", "ensemble.merge"),
    ),
    dropped=("clip_model",),
)
"""HDMNet and PI-CLIP; the frozen CLIP that the latter carries along is dropped."""

KEY_MAPS: dict[str, KeyMap] = {
    "pspnet": PSPNET,
    "pfenet": PFENET,
    "bam": BAM,
    "hdmnet": HDMNET,
}
"""The maps of whole networks, by the network's name."""
