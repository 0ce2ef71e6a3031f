"""TensorBoard event files, written without torch and many points at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """One attempt's scalars in a folder that TensorBoard watches."""

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        """`resume_step` makes TensorBoard drop what earlier attempts logged from there on."""
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names, and finds them by "tfevents".
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self.file = (folder / name).open("wb")
        self.records = RecordWriter(self.file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=resume_step, session_log=start))

    def write(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, metrics in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
            self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self.file.flush()

    def _write(self, event: Event) -> None:
        self.records.write(event.SerializeToString())

    def close(self) -> None:
        self.file.close()
