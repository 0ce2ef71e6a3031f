"""Data sets, by the name that `data=` takes."""

from core.data.array_files import Idx, Npz
from core.data.davis import Davis
from core.data.flow_files import FlyingChairs, FlyingThings, Hd1k, KittiFlow, Sintel
from core.data.flow_mixture import FlowMixture
from core.data.frame_pairs import FramePairs
from core.data.image_folder import ImageFolder
from core.data.moving_digits import MovingDigits
from core.data.segmentation import Ade20k, Cityscapes, Voc
from core.data.torchvision_set import Torchvision
from core.data.videos import FrameFolder, VideoCsv, VideoFolder
from core.types import Data

DATA: dict[str, type[Data]] = {
    "moving_digits": MovingDigits,
    "npz": Npz,
    "idx": Idx,
    "image_folder": ImageFolder,
    "torchvision": Torchvision,
    "video_folder": VideoFolder,
    "video_csv": VideoCsv,
    "frame_folder": FrameFolder,
    "frame_pairs": FramePairs,
    "sintel": Sintel,
    "kitti_flow": KittiFlow,
    "flying_chairs": FlyingChairs,
    "flying_things": FlyingThings,
    "hd1k": Hd1k,
    "flow_mixture": FlowMixture,
    "voc": Voc,
    "cityscapes": Cityscapes,
    "ade20k": Ade20k,
    "davis": Davis,
}
