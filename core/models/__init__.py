"""Encoders and predictors. A variant is one file and one line here."""

from core.models.convnext import ConvNeXt
from core.models.decoder import Decoder
from core.models.narrow import Narrow
from core.models.pwc import PWC
from core.models.resnet import ResNet
from core.models.vit import ViT
from core.types import Encoder, Predictor

ENCODERS: dict[str, type[Encoder]] = {"vit": ViT, "convnext": ConvNeXt, "resnet": ResNet, "pwc": PWC}
PREDICTORS: dict[str, type[Predictor]] = {"narrow": Narrow, "decoder": Decoder}
