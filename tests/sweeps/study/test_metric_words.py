from __future__ import annotations

import math

import pytest

from core.measuring.cost import COST_METRICS
from sweeps.study.files import names
from sweeps.study.metric_words import describe, metric_words, option_words
from sweeps.study.reading import read


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("ridge/digit_top1", "ridge top-1, digits (%)"),
        ("quadrants/digit_top1", "quadrant ridge top-1, digits (%)"),
        ("finetune@k400/class_top1", "fine-tuned on k400 top-1, classes (%)"),
        ("vissl/class_1pct_top1", "VISSL linear top-1 with 1 % of labels, classes (%)"),
        ("flow@clean/epe", "flow on clean end-point error (px)"),
        ("vos/jf", "video segmentation J&F (%)"),
        ("collapse/rankme", "RankMe"),
        ("cost/ms_per_step", "time of a step (ms)"),
        ("mine/odd_score", "mine: odd score"),
        ("cost/pretrain_gpu_seconds", "GPU time of pretraining (s)"),
        ("cost/eval_low_shot_peak_memory_gib", "most memory of judging: low-shot (GiB)"),
        ("lr", "learning rate"),
    ],
)
def test_a_metric_is_said_in_words(key: str, words: str) -> None:
    assert metric_words(key) == words


def metrics_of_studies() -> set[str]:
    studies = [read(name) for name in names()]
    return {m for study in studies for scale in ("cpu", "gpu", "paper") for m in study.metrics(scale)}


def test_no_two_metrics_of_the_studies_share_their_words() -> None:
    keys = metrics_of_studies() | set(COST_METRICS)
    assert len({metric_words(key) for key in keys}) == len(keys)


def test_no_metric_of_the_studies_shows_its_key() -> None:
    assert [key for key in metrics_of_studies() | set(COST_METRICS) if set("/_") & set(metric_words(key))] == []


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("knn/digit_top1", 0, 100),
        ("flow/epe", 0, math.inf),
        ("mask/context_share", 0, 1),
        ("mine/score", -math.inf, math.inf),
    ],
)
def test_a_metric_knows_the_range_of_its_values(key: str, low: float, high: float) -> None:
    assert (describe(key).low, describe(key).high) == (low, high)


def test_costs_and_masks_are_not_of_an_encoder() -> None:
    assert not any(
        describe(key).is_of_encoder for key in (*COST_METRICS, "mask/context_share", "finetune/tokens_share")
    )
    assert describe("collapse/rankme").is_of_encoder and describe("ridge/digit_top1").is_of_encoder


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("optim.batch_size", "batch size"),
        ("mask.temporal_scale", "mask temporal scale"),
        ("collapse/rankme", "RankMe"),
        ("length", "length"),
    ],
)
def test_an_option_is_said_in_words(key: str, words: str) -> None:
    assert option_words(key) == words
