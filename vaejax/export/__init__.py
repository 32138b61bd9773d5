"""A trained model as files that need none of its Python: weights in safetensors, functions as `jax.export` has them.

    weights.safetensors               the parameters, by dotted names
    encode.jax decode.jax generate.jax  the functions; the weights are their first argument, a dict
    export.json                       what goes in and comes out, and the checksum of every file

`load_export` needs JAX, safetensors and flatbuffers, and so does who does without it:

    import jax.export, pathlib, safetensors.numpy

    params = safetensors.numpy.load_file("weights.safetensors")
    decode = jax.export.deserialize(bytearray(pathlib.Path("decode.jax").read_bytes())).call
    images = decode(params, z)["mean"]
"""

from vaejax.export.layout import is_export
from vaejax.export.loading import Exported, load_export
from vaejax.export.writing import export_run, flatten_params

__all__ = ["Exported", "export_run", "flatten_params", "is_export", "load_export"]
