"""Videos and folders of frames: how they are listed, read and kept."""
