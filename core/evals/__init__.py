"""Evaluations: what a representation is worth, measured on frozen features or on a trained copy of the encoder.

`FrozenFeatures` encodes the data once. Every evaluation is a function of these features and a seed; it does not see
the encoder. For each label of the data set it returns top-1 in percent, such as ``ridge/digit_top1``:

============ ==================================================== =======================================
ridge        least squares in closed form                         the default: fast, without noise of SGD
quadrants    ridge on the means of the four quarters               what is small or moves
linear       softmax regression, grid of settings                 a linear probe in seconds
vissl        LARS or SGD, layers x norms x settings; low-shot     the papers' linear probe
attentive    a query reads the patch tokens, grid of settings     V-JEPA's probe of videos
low_shot     a head on 1 % of the labels                          the papers' ablation tables
detect       a linear head on the tokens of given boxes           the papers' detection: mAP
knn          20 nearest neighbours                                no training at all
collapse     RankMe and feature std                               needs no label
seg          a linear head on every token, enlarged               the papers' frozen mIoU
vos          objects followed by the likeness of features         DAVIS's J and F, no training
flow         end-point error of the objective's estimate          Sintel's and KITTI's numbers
finetune     everything trained on, with a linear head            the papers' fine-tuned numbers
detect_tuned everything trained on, with the head of `detect`     the papers' fine-tuned detection
seg_tuned    everything trained on, with the head of `seg`        the papers' fine-tuned mIoU
============ ==================================================== =======================================

Whatever is chosen (penalty, head) is chosen on train samples held out for that, never on the test split.
A new evaluation is one file and one line in `EVALS`.
"""

from core.evals.attentive import Attentive
from core.evals.collapse import Collapse
from core.evals.detect import Detect
from core.evals.flow import Flow
from core.evals.frozen.features import FrozenFeatures
from core.evals.knn import Knn
from core.evals.linear import Linear
from core.evals.low_shot import LowShot
from core.evals.ridge import Quadrants, Ridge
from core.evals.seg import Segment
from core.evals.tuned.detect_tuned import DetectTuned
from core.evals.tuned.finetune import FineTune
from core.evals.tuned.seg_tuned import SegmentTuned
from core.evals.vissl import Vissl
from core.evals.vos import Vos
from core.types import Evaluation

EVALS: dict[str, type[Evaluation]] = {
    "ridge": Ridge,
    "knn": Knn,
    "quadrants": Quadrants,
    "linear": Linear,
    "vissl": Vissl,
    "attentive": Attentive,
    "low_shot": LowShot,
    "detect": Detect,
    "collapse": Collapse,
    "finetune": FineTune,
    "detect_tuned": DetectTuned,
    "flow": Flow,
    "seg": Segment,
    "seg_tuned": SegmentTuned,
    "vos": Vos,
}

__all__ = ["EVALS", "FrozenFeatures"]
