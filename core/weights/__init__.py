"""Where an encoder's weights come from when they are not drawn at random. A source is one file and one line here."""

from core.weights.file import WeightsFile

WEIGHTS: dict[str, type[WeightsFile]] = {"file": WeightsFile}
