"""Tiny data sets of optical flow and of segmentation in the layouts that their sites give out.

.flo: Middlebury's README; .pfm: Debevec's portable float maps; KITTI's and HD1K's flow: a PNG of three 16-bit channels,
64 * u + 2**15, 64 * v + 2**15, valid (KITTI's development kit).
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def some_flow(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """[2, h, w] float32: multiples of 1/64, which every format keeps exactly."""
    return (np.random.default_rng(seed).integers(-900, 900, (2, height, width)) / 64).astype(np.float32)


def write_picture(file: Path, pixels: np.ndarray) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return pixels


def write_flo(file: Path, flow: np.ndarray, *, magic: bytes = b"PIEH") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    head = magic + struct.pack("<ii", flow.shape[2], flow.shape[1])
    file.write_bytes(head + flow.transpose(1, 2, 0).astype("<f4").tobytes())


def write_pfm(file: Path, flow: np.ndarray) -> None:
    """Rows from the bottom up; a third channel of zeros."""
    file.parent.mkdir(parents=True, exist_ok=True)
    three = np.concatenate([flow, np.zeros_like(flow[:1])]).transpose(1, 2, 0)[::-1]
    file.write_bytes(b"PF\n%d %d\n-1.0\n" % (flow.shape[2], flow.shape[1]) + three.astype("<f4").tobytes())


def write_flow_png(file: Path, flow: np.ndarray, valid: np.ndarray) -> None:
    """Pillow writes no 16-bit colour, so the chunks are written here (PNG specification, section 11)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    channels = np.concatenate([flow * 64 + 2**15, valid[None]]).astype(">u2").transpose(1, 2, 0)
    channels[~valid] = 0
    rows = b"".join(b"\0" + row.tobytes() for row in channels)  # 0: the row is not filtered

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", flow.shape[2], flow.shape[1], 16, 2, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def sintel(root: Path, *, height: int = 12, width: int = 20, scenes: int = 2, frames: int = 3) -> Path:
    """`root`/Sintel with both passes, flow and occlusion maps; seeds are 100 * scene + frame, from 1."""
    top = root / "Sintel" / "training"
    for scene in range(1, scenes + 1):
        name = f"alley_{scene}"
        for frame in range(1, frames + 1):
            seed = 100 * scene + frame
            write_picture(top / "clean" / name / f"frame_{frame:04d}.png", picture(height, width, seed=seed))
            write_picture(top / "final" / name / f"frame_{frame:04d}.png", picture(height, width, seed=seed + 50))
            if frame < frames:
                write_flo(top / "flow" / name / f"frame_{frame:04d}.flo", some_flow(height, width, seed=seed))
                hidden = 255 * (picture(height, width, seed=seed)[..., 0] > 200).astype(np.uint8)
                write_picture(top / "occlusions" / name / f"frame_{frame:04d}.png", hidden)
    return root


def kitti(root: Path, *, height: int = 10, width: int = 24, num: int = 3) -> Path:
    """`root`/KittiFlow with flow_occ and flow_noc; known at half of the pixels, of which a third is occluded."""
    top = root / "KittiFlow" / "training"
    for number in range(num):
        for frame in (10, 11):
            write_picture(
                top / "image_2" / f"{number:06d}_{frame}.png", picture(height, width, seed=10 * number + frame)
            )
        valid, shown = kitti_validity(height, width, number)
        for folder, known in (("flow_occ", valid), ("flow_noc", shown)):
            write_flow_png(top / folder / f"{number:06d}_10.png", some_flow(height, width, seed=number), known)
    return root


def kitti_validity(height: int, width: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    lot = np.random.default_rng(number).random((height, width))
    return lot < 1 / 2, lot < 1 / 3


def flying_chairs(root: Path, *, height: int = 12, width: int = 16, num: int = 4) -> Path:
    """`root`/FlyingChairs; every second pair, from the second, is of val."""
    top = root / "FlyingChairs"
    for number in range(1, num + 1):
        for frame in (1, 2):
            write_picture(
                top / "data" / f"{number:05d}_img{frame}.ppm", picture(height, width, seed=10 * number + frame)
            )
        write_flo(top / "data" / f"{number:05d}_flow.flo", some_flow(height, width, seed=number))
    lines = "".join(f"{2 - number % 2}\n" for number in range(1, num + 1))
    (top / "FlyingChairs_train_val.txt").write_text(lines)
    return root


def flying_things(root: Path, *, height: int = 12, width: int = 16, frames: int = 3) -> Path:
    """`root`/FlyingThings3D, one scene in TRAIN and one in TEST; seeds are the frame, 100 + frame for the past."""
    top = root / "FlyingThings3D"
    for part in ("TRAIN", "TEST"):
        for number in range(6, 6 + frames):
            write_picture(
                top / "frames_cleanpass" / part / "A" / "0000" / "left" / f"{number:04d}.png",
                picture(height, width, seed=number),
            )
            for way, name, seed in (("into_future", "IntoFuture", number), ("into_past", "IntoPast", 100 + number)):
                file = (
                    top / "optical_flow" / part / "A" / "0000" / way / "left" / f"OpticalFlow{name}_{number:04d}_L.pfm"
                )
                write_pfm(file, some_flow(height, width, seed=seed))
    return root


def hd1k(root: Path, *, height: int = 12, width: int = 20, sequences: int = 2, frames: int = 3) -> Path:
    top = root / "hd1k"
    for sequence in range(sequences):
        for frame in range(frames):
            name, seed = f"{sequence:06d}_{10 * frame:04d}.png", 10 * sequence + frame
            write_picture(top / "hd1k_input" / "image_2" / name, picture(height, width, seed=seed))
            valid, _ = kitti_validity(height, width, seed)
            write_flow_png(top / "hd1k_flow_gt" / "flow_occ" / name, some_flow(height, width, seed=seed), valid)
    return root
