"""JAX's primitives as the few operations of `program.js`: of each element, products, moves and reductions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaejax.report.slots import Builder, Known, Slot, Value, positions_of, unsupported
from vaejax.types import Shape

# Elementwise functions that `program.js` has under JAX's names.
ELEMENTWISE = frozenset(
    {
        "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "cos", "cosh",
        "div", "eq", "erf", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "is_finite", "le", "log",
        "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "pow", "rem", "rsqrt", "sign", "sin",
        "sinh", "sqrt", "sub", "tan", "tanh",
    }
)  # fmt: skip
# What only rearranges elements, so that JAX itself can be asked where each comes from.
MOVES = frozenset(
    {
        "broadcast_in_dim", "concatenate", "dynamic_slice", "expand_dims", "gather", "pad", "reshape", "rev",
        "slice", "split", "squeeze", "stack", "tile", "transpose",
    }
)  # fmt: skip
# Those whose first operand is moved and whose others say where to.
INDEXED = frozenset({"gather", "dynamic_slice"})
REDUCTIONS = {"sum": "add", "max": "max", "min": "min", "prod": "mul", "and": "min", "or": "max"}
CUMULATIVE = {"cumsum": "add", "cumprod": "mul", "cummax": "max", "cummin": "min"}
IDENTITIES = frozenset({"stop_gradient", "optimization_barrier", "copy", "copy_p", "reduce_precision"})


def fold(equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """What an equation gives for inputs that are known."""
    arrays = [value.array for value in inputs]  # type: ignore[union-attr]
    results = equation.primitive.bind(*arrays, **equation.primitive.get_bind_params(equation.params))
    return [Known(result) for result in (results if equation.primitive.multiple_results else [results])]


def lower(equation: Any, inputs: Sequence[Value], builder: Builder) -> Sequence[Value]:
    """Write one equation as operations of `program.js`.

    Raises:
      UnsupportedOperation: a primitive that it does not have.
    """
    name, parameters = equation.primitive.name, equation.params
    shape, dtype = tuple(equation.outvars[0].aval.shape), equation.outvars[0].aval.dtype
    if name in IDENTITIES:
        return inputs
    if name in MOVES and (name not in INDEXED or all(isinstance(value, Known) for value in inputs[1:])):
        return _move(equation, inputs, builder)
    whole = jnp.issubdtype(dtype, jnp.integer)
    if name in ELEMENTWISE:
        return [builder.elementwise("int_div" if name == "div" and whole else name, inputs, shape, dtype)]
    if name in WRITERS:
        return [WRITERS[name](builder, inputs, shape, dtype, parameters)]
    raise unsupported(f"the operation {name} of JAX")


def _move(equation: Any, inputs: Sequence[Value], builder: Builder) -> list[Value]:
    """Ask JAX where the elements of the results come from, by moving their positions."""
    moved = 1 if equation.primitive.name in INDEXED else len(inputs)
    starts = np.cumsum([0, *(math.prod(value.shape) for value in inputs[:moved])])
    places = [positions_of(value.shape, start) for value, start in zip(inputs, starts[:moved], strict=False)]
    others = [value.array for value in inputs[moved:]]  # type: ignore[union-attr]
    bound = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*map(jnp.asarray, places), *others, **bound)
    results = results if equation.primitive.multiple_results else [results]
    return [builder.take(inputs[:moved], np.asarray(each), inputs[0].dtype) for each in results]


Writer = Callable[[Builder, Sequence[Value], Shape, Any, Any], Value]


def _integer_pow(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, parameters: Any) -> Value:
    (x,), power = inputs, parameters["y"]
    if power in {2, 3}:
        square = builder.elementwise("mul", [x, x], shape, dtype)
        return square if power == 2 else builder.elementwise("mul", [square, x], shape, dtype)
    return builder.elementwise("pow", [x, Known(np.float32(power))], shape, dtype)


def _convert(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, _: Any) -> Value:
    (x,) = inputs
    if dtype == jnp.bool_ and x.dtype != jnp.bool_:
        return builder.elementwise("ne", [x, Known(np.float32(0))], shape, dtype)
    if jnp.issubdtype(dtype, jnp.integer) and jnp.issubdtype(x.dtype, jnp.floating):
        return builder.elementwise("trunc", [x], shape, dtype)
    return Slot(builder.materialize(x).place, shape, dtype)


def _select(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, _: Any) -> Value:
    return builder.elementwise("select", inputs, shape, dtype)


def _clamp(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, _: Any) -> Value:
    low, x, high = inputs
    return builder.elementwise("min", [builder.elementwise("max", [low, x], shape, dtype), high], shape, dtype)


def _logical(name: str) -> Writer:
    def write(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, _: Any) -> Value:
        if dtype != jnp.bool_:
            raise unsupported(f"the bits of {dtype}")
        return builder.elementwise(name, inputs, shape, dtype)

    return write


def _reduce(name: str) -> Writer:
    def write(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, parameters: Any) -> Value:
        (x,), axes = inputs, parameters["axes"]
        kept = [axis for axis in range(len(x.shape)) if axis not in axes]
        count = math.prod(x.shape[axis] for axis in axes)
        return builder.emit("reduce", [builder.transpose(x, [*kept, *axes])], shape, dtype, f=name, count=count)

    return write


def _cumulate(name: str) -> Writer:
    def write(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, parameters: Any) -> Value:
        (x,), axis = inputs, parameters["axis"]
        inner = math.prod(shape[axis + 1 :])
        reverse = bool(parameters["reverse"])
        return builder.emit("cumulate", [x], shape, dtype, f=name, count=shape[axis], inner=inner, reverse=reverse)

    return write


def _matmul(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, parameters: Any) -> Value:
    """A product of `[batch, rows, count]` and `[batch, count, columns]`: weights lie as the inner loop reads them."""
    (left, right), ((left_sum, right_sum), (left_batch, right_batch)) = inputs, parameters["dimension_numbers"]
    rows = [axis for axis in range(len(left.shape)) if axis not in {*left_sum, *left_batch}]
    columns = [axis for axis in range(len(right.shape)) if axis not in {*right_sum, *right_batch}]
    operands = [
        builder.transpose(left, [*left_batch, *rows, *left_sum]),
        builder.transpose(right, [*right_batch, *right_sum, *columns]),
    ]
    sizes = {
        "batch": math.prod(left.shape[axis] for axis in left_batch),
        "rows": math.prod(left.shape[axis] for axis in rows),
        "count": math.prod(left.shape[axis] for axis in left_sum),
        "columns": math.prod(right.shape[axis] for axis in columns),
    }
    return builder.emit("matmul", operands, shape, dtype, **sizes)


def _convolve(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, parameters: Any) -> Value:
    """A convolution of `[N, H, W, C]` by `[h, w, C / groups, outputs]`, whatever the order that JAX has them in."""
    left, right, out = parameters["dimension_numbers"]
    if len(left) not in {3, 4} or parameters["batch_group_count"] != 1:
        raise unsupported(
            f"a convolution of {len(left) - 2} axes in {parameters['batch_group_count']} groups of the batch"
        )
    x = builder.transpose(inputs[0], [left[0], *left[2:], left[1]])
    kernel = builder.transpose(inputs[1], [*right[2:], right[1], right[0]])
    order = [out[0], *out[2:], out[1]]
    natural = [shape[axis] for axis in order]
    # One axis is two, of which the first has one row.
    two = lambda sizes: [1] * (4 - len(left)) + [int(size) for size in sizes]
    sizes = {
        "batch": x.shape[0],
        "size": two(x.shape[1:-1]),
        "kernel": two(kernel.shape[:-2]),
        "out_size": two(natural[1:-1]),
        "before": [0] * (4 - len(left)) + [int(before) for before, _ in parameters["padding"]],
        "stride": two(parameters["window_strides"]),
        "dilation": two(parameters["lhs_dilation"]),
        "kernel_dilation": two(parameters["rhs_dilation"]),
        "groups": parameters["feature_group_count"],
        "channels": x.shape[-1],
        "outputs": kernel.shape[-1],
    }
    return builder.transpose(builder.emit("convolve", [x, kernel], natural, dtype, **sizes), np.argsort(order).tolist())


def _argument(name: str) -> Writer:
    def write(builder: Builder, inputs: Sequence[Value], shape: Shape, dtype: Any, parameters: Any) -> Value:
        (x,), (axis,) = inputs, parameters["axes"]
        last = builder.transpose(x, [*(other for other in range(len(x.shape)) if other != axis), axis])
        return builder.emit("argument", [last], shape, dtype, f=name, count=x.shape[axis])

    return write


WRITERS: dict[str, Writer] = {
    "integer_pow": _integer_pow,
    "square": lambda builder, inputs, shape, dtype, _: builder.elementwise("mul", [*inputs, *inputs], shape, dtype),
    "convert_element_type": _convert,
    "select_n": _select,
    "clamp": _clamp,
    "round": lambda builder, inputs, shape, dtype, parameters: builder.elementwise(
        "round_to_even" if int(parameters["rounding_method"]) else "round", inputs, shape, dtype
    ),
    **{name: _logical(name) for name in ("and", "or", "xor", "not")},
    **{f"reduce_{name}": _reduce(f) for name, f in REDUCTIONS.items()},
    **{name: _cumulate(f) for name, f in CUMULATIVE.items()},
    "argmax": _argument("gt"),
    "argmin": _argument("lt"),
    "dot_general": _matmul,
    "conv_general_dilated": _convolve,
}
