"""Where what is made goes, chunk by chunk: arrays (.npy, .npz), one picture (.png) or a folder of pictures."""

from vaejax.sinks.pictures import MAX_IMAGES, to_bytes
from vaejax.sinks.sink import Sink, open_sink

__all__ = ["MAX_IMAGES", "Sink", "open_sink", "to_bytes"]
