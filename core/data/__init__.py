"""Data sets, by the name that `data=` takes."""

from core.data.array_files import Idx, Npz
from core.data.dense.davis import Davis
from core.data.dense.segmentation import Ade20k, Cityscapes, Voc
from core.data.downloaded.cifar import Cifar10, Cifar100
from core.data.downloaded.imagenette import Imagenette
from core.data.downloaded.stl10 import Stl10
from core.data.downloaded.tiny_imagenet import TinyImageNet
from core.data.flow.flow_files import FlyingChairs, FlyingThings, Hd1k, KittiFlow, Sintel
from core.data.flow.flow_mixture import FlowMixture
from core.data.flow.frame_pairs import FramePairs
from core.data.image_folder import ImageFolder
from core.data.moving_digits import MovingDigits
from core.data.shards.parquet import Parquet
from core.data.shards.webdataset import WebDataset
from core.data.torchvision_set import Torchvision
from core.data.video.videos import FrameFolder, VideoCsv, VideoFolder
from core.types import Data

DATA: dict[str, type[Data]] = {
    "moving_digits": MovingDigits,
    "npz": Npz,
    "idx": Idx,
    "image_folder": ImageFolder,
    "stl10": Stl10,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "imagenette": Imagenette,
    "tiny_imagenet": TinyImageNet,
    "parquet": Parquet,
    "webdataset": WebDataset,
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
