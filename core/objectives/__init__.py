"""What one step minimises."""

from core.objectives.flow import Flow
from core.objectives.masked import MaskedPrediction
from core.objectives.motion_content import MotionContent
from core.objectives.supervised import Supervised
from core.objectives.untrained import Untrained
from core.objectives.vicreg import Vicreg
from core.types import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "masked": MaskedPrediction,
    "supervised": Supervised,
    "vicreg": Vicreg,
    "flow": Flow,
    "motion_content": MotionContent,
    "untrained": Untrained,
}
