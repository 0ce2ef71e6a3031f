"""Sets that know something of every pixel: masks of objects, classes, and how they follow a frame's new size."""
