"""Metrics and options as words: what tables, figures, pages and sentences call "ridge/digit_top1".

What is typed, stored and written to CSV keeps its key; whoever shows a metric to a reader asks here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

PER_CENT = "%"


@dataclass(frozen=True)
class Metric:
    """`low` and `high` are the ends of what its values can be. `is_of_encoder`: a random initialisation has one too.

    Costs and shares of patches are of the training, which a random initialisation did not have.
    """

    words: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    is_of_encoder: bool = True

    def __str__(self) -> str:
        return f"{self.words} ({self.unit})" if self.unit else self.words


def _share(words: str) -> Metric:
    return Metric(words, low=0, high=1, is_of_encoder=False)


def _cost(words: str, unit: str = "") -> Metric:
    return Metric(words, unit, low=0, is_of_encoder=False)


_WHOLE = {
    "loss": Metric("loss"),
    "lr": Metric("learning rate", low=0, is_of_encoder=False),
    "ema_decay": Metric("decay of the EMA", low=0, high=1, is_of_encoder=False),
    "collapse/rankme": Metric("RankMe", low=0),
    "collapse/feature_std": Metric("spread of features", low=0),
    "mask/context_share": _share("share of patches in the context"),
    "mask/target_share": _share("share of patches in a target"),
    "mask/hidden_share": _share("hidden share of patches"),
    "mask/spatial_ratio": _share("hidden share of the frames with a target"),
    "mask/context_time": _share("share of frames in the context"),
    "mask/target_time": _share("share of frames in a target"),
    "cost/train_seconds": _cost("training time", "s"),
    "cost/data_seconds": _cost("waiting for data", "s"),
    "cost/compute_seconds": _cost("computing time", "s"),
    "cost/ms_per_step": _cost("time of a step", "ms"),
    "cost/samples_per_second": _cost("samples a second"),
    "cost/gflop_per_step": _cost("operations of a step", "GFLOP"),
    "cost/forward_mmac": _cost("forward pass of a clip", "M multiply-adds"),
    "cost/encoder_mmac": _cost("encoder's forward pass of a clip", "M multiply-adds"),
    "cost/effective_epochs": _cost("effective epochs"),
    "cost/samples_decoded": _cost("samples decoded"),
    "cost/encoder_parameters": _cost("parameters of the encoder"),
    "cost/trained_parameters": _cost("trained parameters"),
    "finetune/seconds_per_step": _cost("time of a fine-tuning step", "s"),
    "finetune/tokens_share": _share("share of tokens that fine-tuning keeps"),
    "finetune/forward_mmac": _cost("fine-tuned forward pass of a clip", "M multiply-adds"),
    "finetune/parameters_m": _cost("fine-tuned parameters", "M"),
}
_FAMILIES = {
    "ridge": "ridge", "quadrants": "quadrant ridge", "knn": "k-NN", "linear": "linear", "vissl": "VISSL linear",
    "attentive": "attentive", "low_shot": "low-shot", "finetune": "fine-tuned", "flow": "flow", "seg": "segmentation",
    "seg_tuned": "tuned segmentation", "vos": "video segmentation", "detect": "detection",
    "detect_tuned": "tuned detection",
}  # fmt: skip
_MEASURES = {
    "epe": ("end-point error", "px"), "epe_noc": ("end-point error, not occluded", "px"),
    "epe_occ": ("end-point error, occluded", "px"), "f1": ("outliers, Fl", PER_CENT), "miou": ("mIoU", PER_CENT),
    "map": ("mAP", PER_CENT), "jf": ("J&F", PER_CENT), "j": ("J", PER_CENT), "f": ("F", PER_CENT),
}  # fmt: skip
_LABELS = {"digit": "digits", "class": "classes"}
_TOP = re.compile(r"(?:(?P<label>.+?)_)?(?:(?P<share>\d+)pct_)?top(?P<k>\d+)(?P<rest>(?:_\w+)?)")
_OPTIONS = {
    "mask.ratio": "hidden share of patches", "optim.batch_size": "batch size", "optim.steps": "steps",
    "optim.lr": "learning rate", "optim.weight_decay": "weight decay", "encoded_tokens": "encoded tokens (in samples)",
    "augment.scale_min": "smallest crop", "augment.repeats": "augmentations of a clip",
    "samples_seen": "samples seen", "cpu_hours": "CPU-hours", "gpu_hours": "GPU-hours",
}  # fmt: skip
_PHASE = re.compile(
    r"cost/(?P<phase>pretrain|features|eval_\w+?)_(?P<cost>(?:cpu_|gpu_)?seconds|gflop|peak_(?:gpu_)?memory_gib)"
)
_PHASES = {"pretrain": "of pretraining", "features": "of encoding the judged data"}
_COSTS = {
    "seconds": ("time", "s"), "cpu_seconds": ("CPU time", "s"), "gpu_seconds": ("GPU time", "s"),
    "gflop": ("operations", "GFLOP"), "peak_memory_gib": ("most memory", "GiB"),
    "peak_gpu_memory_gib": ("most GPU memory", "GiB"),
}  # fmt: skip
_KINDS = ("data", "evals", "model", "objective", "optim")  # say nothing beside the option's own name


def describe(key: str) -> Metric:
    """`ridge/digit_top1` is "ridge top-1, digits" in per cent; a key that nothing is known of loses its signs only."""
    family, _, name = key.rpartition("/")
    probe, _, judged_on = family.partition("@")
    where = f" on {_plain(judged_on)}" if judged_on else ""
    known = _WHOLE.get(f"{probe}/{name}" if probe else name)
    if known is not None:
        return Metric(known.words + where, known.unit, known.low, known.high, known.is_of_encoder)
    if spent := _PHASE.fullmatch(key):
        words, unit = _COSTS[spent["cost"]]
        judge = spent["phase"].removeprefix("eval_")
        return _cost(f"{words} {_PHASES.get(judge, f'of judging: {_FAMILIES.get(judge, _plain(judge))}')}", unit)
    said = _FAMILIES.get(probe, _plain(probe)) + where
    if name in _MEASURES:
        words, unit = _MEASURES[name]
        return Metric(f"{said} {words}".strip(), unit, 0, 100 if unit == PER_CENT else math.inf)
    if top := _TOP.fullmatch(name):
        label = _LABELS.get(top["label"] or "", _plain(top["label"] or ""))
        share = f" with {top['share']} % of labels" if top["share"] else ""
        rest = _plain(top["rest"])
        words = ", ".join(filter(None, [f"{said} top-{top['k']}{share}".strip(), label, rest]))
        return Metric(words, PER_CENT, 0, 100)
    is_of_encoder = probe not in ("cost", "mask")
    return Metric(": ".join(filter(None, [said, _plain(name)])), low=-math.inf, is_of_encoder=is_of_encoder)


def metric_words(key: str) -> str:
    """With its unit: `ridge top-1, digits (%)`."""
    return str(describe(key))


def option_words(key: str) -> str:
    """An axis of a figure: a metric, a key of a config or a study's own name for its rows, as words."""
    if key in _OPTIONS or "." not in key:
        return _OPTIONS.get(key) or (metric_words(key) if "/" in key else _plain(key))
    return " ".join(_plain(part) for part in key.split(".") if part not in _KINDS)


def _plain(name: str) -> str:
    return name.replace("_", " ").strip()
