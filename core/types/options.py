"""What the value of an option must be, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VALUES: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
