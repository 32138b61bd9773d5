"""Where what is made goes, chunk by chunk: arrays (.npy, .npz), one picture (.png) or a folder of pictures."""

from vaejax.sinks.pictures import MAX_IMAGES, check_room, to_bytes
from vaejax.sinks.sink import Sink, check_sink, ending_of, open_sink

__all__ = ["MAX_IMAGES", "Sink", "check_room", "check_sink", "ending_of", "open_sink", "to_bytes"]
