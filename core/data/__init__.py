"""Data sets, by the name that `data=` takes."""

from core.data.moving_digits import MovingDigits
from core.types import Data

DATA: dict[str, type[Data]] = {
    "moving_digits": MovingDigits,
}
