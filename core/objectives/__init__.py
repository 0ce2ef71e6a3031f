"""What one step minimises."""

from core.objectives.flow import Flow
from core.objectives.masked import MaskedPrediction
from core.objectives.supervised import Supervised
from core.types import Objective

OBJECTIVES: dict[str, type[Objective]] = {"masked": MaskedPrediction, "supervised": Supervised, "flow": Flow}
