"""Videos out of drawn frames."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from fastrpn.files import replacing


class VideoWriter:
    """Writes uint8 [H,W,3] RGB frames to an .mp4 file; a context manager.

    The file appears when the context ends without an error. Frames of another size than the first
    one's are resized to it.
    """

    def __init__(self, path: str | Path, rate: float):
        self.path, self.rate = Path(path), rate if rate > 0 else 25.0  # some files do not tell
        self._writer: cv2.VideoWriter | None = None
        self._files = ExitStack()

    def __enter__(self) -> VideoWriter:
        self._temporary = self._files.enter_context(replacing(self.path))
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.release()
        self._files.__exit__(*error)

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame.

        Raises:
            OSError: OpenCV has no encoder for the file.
        """
        if self._writer is None:
            self._size = (frame.shape[1], frame.shape[0])
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), codec, self.rate, self._size)
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: OpenCV cannot encode this video")
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = cv2.resize(frame, self._size)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
