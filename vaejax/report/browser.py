"""A decoder as a program for the browser: what JAX traced, as a list of simple operations that JavaScript runs.

The function is traced once. Calls inside it are inlined, what does not depend on z is computed here and becomes a
constant, and what is left is written as JSON, for `program.js` to run in float32.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from vaejax.checks import check_callable, check_count
from vaejax.report import lowering
from vaejax.report.slots import Builder, Known, UnsupportedOperation, Value
from vaejax.types import Array, Shape

__all__ = ["BrowserProgram", "UnsupportedOperation", "compile_for_browser", "encode_base64", "javascript"]

# Calls, and the parameter that holds what they call.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}

# Primitives of `nets`, of one member, as JAX's own.
CONVOLUTION: Any = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
EXPANSIONS: dict[str, Callable[..., Array]] = {
    "dense": lambda x, kernel: (x[0] @ kernel[0])[None],
    "convolve": lambda x, kernel: jax.lax.conv_general_dilated(x[0], kernel[0], (2, 2), **CONVOLUTION)[None],
    "convolve_transposed": lambda y, kernel, size: jax.lax.conv_transpose(
        y[0], kernel[0], (2, 2), transpose_kernel=True, **CONVOLUTION
    )[None, :, : size[0], : size[1]],
}


class BrowserProgram(NamedTuple):
    """A function of one array, for `program.js`."""

    input_shape: Shape
    output_shape: Shape
    document: dict[str, Any]  # of numbers, strings, lists and dicts, as JSON has them


def compile_for_browser(
    function: Callable[[Array], Array], shape: Shape, *, max_bytes: int = 64_000_000
) -> BrowserProgram:
    """Compile a function of one array for the browser.

    Args:
      function: z to an array, such as `lambda z: model.decode(params, z).mean`; what JAX can trace, without draws.
      shape: of z.
      max_bytes: of the constants, mostly weights, as text: four characters for three of their bytes.

    Returns:
      The program. It computes in float32, whatever the precision of the function.

    Raises:
      UnsupportedOperation: a primitive that `program.js` does not have, by name; more weights than `max_bytes`. It is a
        `ValueError`, and its words are for the readers of a page.
      TypeError, ValueError: no function, a shape that is none, a result that is not one array.

    >>> import jax.numpy as jnp
    >>> program = compile_for_browser(lambda z: jnp.tanh(z @ jnp.ones((2, 3))), (2,))
    >>> program.output_shape, [operation["op"] for operation in program.document["operations"]]
    ((3,), ['matmul', 'map'])
    """
    closed = _traced(function, shape)
    builder = Builder()
    z = builder.slot(shape, np.dtype(np.float32))
    (result,) = _lower(closed.jaxpr, closed.consts, [z], builder)
    output = builder.materialize(result)
    return BrowserProgram(shape, result.shape, _document(builder, z.place, output.place, max_bytes))


def javascript() -> str:
    """The source of `program.js`, whose `compileProgram(document)` gives a function of z."""
    return resources.files("vaejax.report").joinpath("program.js").read_text(encoding="utf-8")


def encode_base64(array: np.ndarray) -> str:
    """The bytes of an array, little-endian, as text that `decodeBase64` of `program.js` reads."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def _traced(function: Callable[[Array], Array], shape: Shape) -> Any:
    """The jaxpr of a function of one array, with its constants."""
    check_callable("compile_for_browser: function", function)
    if not isinstance(shape, tuple):
        raise TypeError(f"compile_for_browser: shape must be a tuple such as (20,); got {shape!r}")
    for size in shape:
        check_count("compile_for_browser: shape", size)
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, np.float32))
    if len(closed.out_avals) != 1:
        raise TypeError(f"compile_for_browser: function must return one array; got {len(closed.out_avals)}")
    return closed


def _document(builder: Builder, source: int, output: int, max_bytes: int) -> dict[str, Any]:
    """What the output depends on, from the slot of z to its own."""
    operations, used = _prune(builder.operations, {output})
    constants = [pair for pair in builder.constants() if pair[0] in used]
    _check_size(sum(array.nbytes for _, array in constants), max_bytes)
    return {
        "sizes": [size if index in {source, *used} else 0 for index, size in enumerate(builder.sizes)],
        "input": source,
        "output": output,
        "constants": [[index, array.dtype.kind, encode_base64(array)] for index, array in constants],
        "operations": operations,
    }


def _lower(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value], builder: Builder) -> list[Value]:
    """The values of a jaxpr's results: known ones, and slots that the builder's operations fill."""
    known = [Known(const) for const in consts]
    values: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*known, *arguments], strict=True))

    def read(atom: Any) -> Value:
        return Known(np.asarray(atom.val, atom.aval.dtype)) if isinstance(atom, core.Literal) else values[atom]  # type: ignore[attr-defined]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        values.update(zip(equation.outvars, _lower_equation(equation, inputs, builder), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _lower_equation(equation: Any, inputs: list[Value], builder: Builder) -> Sequence[Value]:
    name, parameters = equation.primitive.name, equation.params
    if all(isinstance(value, Known) for value in inputs):
        return lowering.fold(equation, inputs)
    if name in CALLS:
        return _lower(*_opened(parameters[CALLS[name]]), inputs, builder)
    if name in EXPANSIONS:
        expanded = jax.make_jaxpr(partial(EXPANSIONS[name], **parameters))(*(atom.aval for atom in equation.invars))
        return _lower(expanded.jaxpr, expanded.consts, inputs, builder)
    if name == "scan":
        return _lower_scan(parameters, inputs, builder)
    return lowering.lower(equation, inputs, builder)


def _lower_scan(parameters: Mapping[str, Any], inputs: list[Value], builder: Builder) -> list[Value]:
    """A loop whose body fills the same slots in every turn."""
    length = parameters["length"]
    constants, starts, sequences = _scan_inputs(parameters, inputs)
    carry = [builder.slot(value.shape, value.dtype) for value in starts]
    parts = [builder.slot(value.shape[1:], value.dtype) for value in sequences]
    body = builder.block()
    results = _lower(*_opened(parameters["jaxpr"]), [*constants, *carry, *parts], body)
    # Copies, so that no result is a slot that the next turn overwrites while it is still wanted.
    finished = [body.copy(value) for value in results]
    outputs = [builder.slot((length, *value.shape), value.dtype) for value in finished[len(carry) :]]
    indices: Callable[[Sequence[Value]], list[int]] = lambda values: [
        builder.materialize(each).place for each in values
    ]
    builder.operations.append(
        {
            "op": "scan",
            "length": length,
            "reverse": bool(parameters["reverse"]),
            "in": [*indices(starts), *indices(sequences)],
            "carry": indices(carry),
            "parts": indices(parts),
            "body": body.operations,
            "results": indices(finished),
            "out": [*indices(carry), *indices(outputs)],
        }
    )
    return [*carry, *outputs]


def _scan_inputs(parameters: Mapping[str, Any], inputs: list[Value]) -> Sequence[list[Value]]:
    """What stays the same in every turn, what is carried from one to the next, and what each has a part of."""
    if "num_consts" not in parameters:
        # As jax 0.12 says it.
        return [list(each) for each in parameters["ft_in"].update(inputs).unpack()]
    first, second = parameters["num_consts"], parameters["num_consts"] + parameters["num_carry"]
    return inputs[:first], inputs[first:second], inputs[second:]


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants."""
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, [])


def _prune(operations: list[dict[str, Any]], live: set[int]) -> tuple[list[dict[str, Any]], set[int]]:
    """The operations on which the live slots depend, and all slots that these read or fill."""
    kept, live = [], set(live)
    for operation in reversed(operations):
        if live.isdisjoint(operation["out"]):
            continue
        if operation["op"] == "scan":
            body, inside = _prune(operation["body"], set(operation["results"]))
            operation = {**operation, "body": body}  # noqa: PLW2901
            live |= inside | {*operation["carry"], *operation["parts"]}
        live |= {*operation["in"], *operation["out"], operation.get("map", operation["in"][0])}
        kept.append(operation)
    return kept[::-1], live


def _check_size(stored: int, max_bytes: int) -> None:
    size = 4 * math.ceil(stored / 3)
    if size > max_bytes:
        raise UnsupportedOperation(
            f"the decoder has {size / 1e6:.1f} MB of weights, and at most {max_bytes / 1e6:g} MB go into a page"
        )
