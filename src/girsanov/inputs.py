r"""What comes in at the doors of the package: rows, conditions and counts, and what a score returns.

Public functions name their arguments alike, so one decorator, :func:`checked`, knows them by their names: it serves
what has one meaning (arrays, lists and data frames for rows, one label for a condition) and refuses the rest in one
sentence. A score is asked in one place, :func:`ask`, which looks at every answer.
"""

__all__ = ["as_condition", "as_device", "as_rows", "ask", "ask_at", "asked", "checked", "like_rows", "require_names"]

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from girsanov.types import InputError, Score, State, Time, require_count, require_generator

P = ParamSpec("P")
R = TypeVar("R")

COUNTS = frozenset(
    (
        *("n", "samples", "max_samples", "steps", "paths", "replicates", "draws", "slices", "block", "groups", "count"),
        *("width", "layers", "heads", "head_width", "head_blocks", "repeats", "rank"),
    )
)
CONDITIONS = ("condition", "c1", "c2")
LAWS = ("self", "prior", "reference", "decoder", "pair", "score", "law")
MARGIN = 1e-4  # of the root of the largest number: room for a score's 1 / sigma and for sums


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function see its arguments only after they were looked at, each by its name.

    ``x`` becomes a tensor of rows, ``condition`` (``c1``, ``c2``) one of labels or vectors, counts are whole numbers of
    1 or more, ``score`` and ``process`` are not swapped, rows fit the laws beside them, and what is annotated with
    classes is of these.

    Raises:
        InputError: when the function is called, for what cannot be served.

    Example:
        >>> @checked
        ... def mean(x: State, *, samples: int = 8) -> Tensor:
        ...     return x.mean(0)
        >>> mean([[1, 2], [3, 4]])
        tensor([2., 3.], dtype=torch.float64)
    """
    signature = inspect.signature(function)
    first = next(iter(signature.parameters), "")
    kinds = {p.name: kind for p in signature.parameters.values() if (kind := _kinds(p.annotation)) is not None}
    open_ = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    scores = "process" in kinds  # elsewhere a score may be its values, and a process another package's

    @wraps(function)
    def door(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            if args and first in kinds:
                _require_kind(first, args[0], kinds[first])
            return function(*args, **kwargs)  # Python's own sentence names what is missing
        given = bound.arguments
        for arguments in (given, *(given[name] for name in open_ if name in given)):
            _look_at(arguments, scores)
        for name, kind in kinds.items():
            if name in given:
                _require_kind(name, given[name], kind)
        if not _randomised(given.get("x")):
            _require_fit(given)
        elif signature.parameters["x"].annotation is Tensor:
            _refuse_randomised(function.__name__)
        return function(*bound.args, **bound.kwargs)

    return door


def _look_at(given: dict[str, Any], scores: bool) -> None:
    """Replace arguments by what is meant."""
    if scores:
        _require_order(given)
    for name in COUNTS & given.keys():
        if given[name] is not None:
            given[name] = require_count(name, given[name])
    require_generator(given.get("generator"))
    if "x" in given and not _randomised(given["x"]):
        given["x"] = as_rows(given["x"])
    if "event_shape" in given and given["event_shape"] is not None:
        given["event_shape"] = _event_shape(given["event_shape"])
    rows = given.get("x", given.get("n"))
    rows = getattr(rows, "rows", rows)
    named = hasattr(given.get("model"), "encode_condition")  # such a model knows conditions by its labels
    for name in CONDITIONS:
        if given.get(name) is not None and rows is not None and not named:
            given[name] = as_condition(given[name], rows, name)
    if isinstance(given.get("levels"), Tensor | np.ndarray | list | tuple):
        given["levels"] = _levels(given["levels"])


def _randomised(x: Any) -> bool:
    """Whether rows come with their views, of an encoding that has looked at them."""
    return hasattr(x, "views")


def _refuse_randomised(name: str) -> NoReturn:
    """Such rows where plain ones are wanted."""
    raise InputError(
        f"{name} takes plain rows, and encode() makes rows that bounds see with fresh noise: call the fitted model's "
        "own method on the data, such as model.log_prob(x)"
    )


def as_rows(x: Any) -> State:
    """Rows as a tensor of real, finite numbers, ``n *event``; a tensor of such numbers is returned as it is.

    Args:
        x: tensor, array, data frame or nested lists. Whole numbers and truth values become float64.

    Raises:
        InputError: for what holds no rows of numbers, missing or infinite values, and values whose squares overflow.

    Example:
        >>> as_rows(np.arange(4).reshape(2, 2))
        tensor([[0., 1.],
                [2., 3.]], dtype=torch.float64)
    """
    rows = x if isinstance(x, Tensor) else _tensor(x, "Rows")
    if rows.is_complex() or rows.layout is not torch.strided:
        raise InputError(f"Rows are dense tensors of real numbers; got {rows.dtype} ({rows.layout}): convert them")
    rows = rows if rows.is_floating_point() else rows.double()
    if rows.ndim < 2 or rows.numel() == 0:
        raise InputError(f"Rows of shape (n, *event) are needed, at least one; got shape {tuple(rows.shape)}")
    limit = MARGIN * math.sqrt(torch.finfo(rows.dtype).max)
    inside = rows.detach().abs() < limit  # not of missing values either
    if bool(inside.all()):
        return rows
    row = int((~inside.flatten(1).all(1)).nonzero()[0])
    if bool(rows[row].isfinite().all()):
        raise InputError(
            f"x[{row}] has values as large as {float(rows[row].detach().abs().max()):.3g}, whose squares overflow in "
            f"{rows.dtype}: rescale the rows, or leave that one out"
        )
    raise InputError(f"x[{row}] has missing or infinite values: impute them or leave that row out")


def as_condition(condition: Any, rows: State | int, name: str = "condition") -> Tensor:
    """Labels or vectors with leading dimension n or 1, beside ``rows`` (or so many of them) and on their device.

    Args:
        condition: tensor, array or list; one whole number is the label of all rows.
        rows: rows, or their number.
        name: of the argument.

    Raises:
        InputError: for another length, or values that are missing or no numbers.

    Example:
        >>> as_condition(3, 5)
        tensor([3])
    """
    found = condition if isinstance(condition, Tensor) else _tensor(condition, name)
    found = found[None] if found.ndim == 0 else found
    n = rows if isinstance(rows, int) else len(rows)
    if len(found) not in (1, n):
        raise InputError(f"{name} must have leading dimension 1 or {n}; got {len(found)}")
    if found.is_complex() or not bool(found.isfinite().all()):
        raise InputError(f"{name} has missing, infinite or complex values: give a finite number for every row")
    return found if isinstance(rows, int) else found.to(rows.device)


def as_device(device: str | torch.device) -> torch.device:
    """The device of that name, one that PyTorch finds here and that has float64, as references and levels are.

    Raises:
        InputError: for any other.

    Example:
        >>> as_device("cpu")
        device(type='cpu')
    """
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"Unknown device {device!r}: give cpu or cuda") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError("PyTorch finds no CUDA device here: leave device out, or give device='cpu'")
    try:
        torch.zeros(1, dtype=torch.float64, device=place)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(f"PyTorch has no device {place} here with numbers in float64: give device='cpu'") from error
    return place


def require_names(given: Iterable[str], known: Sequence[str], what: str, *, also: Sequence[str] = ()) -> None:
    """Refuse a keyword that nobody reads, and name the nearest that somebody does.

    Args:
        given: the keywords.
        known: those that are read.
        what: reads them.
        also: arguments beside them that may have been meant.

    Raises:
        InputError: for the first unknown one.

    Example:
        >>> require_names({"time_budgt": 60}, ["time_budget", "steps"], "fit")
        Traceback (most recent call last):
        girsanov.types.InputError: fit has no setting time_budgt=: did you mean time_budget=?
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *also], n=1)
            advice = f"did you mean {near[0]}=?" if near else f"it takes {', '.join([*known, *also])}"
            raise InputError(f"{what} has no setting {name}=: {advice}")


def ask(score: Score, t: Time, x: State, condition: Tensor | None = None, name: str = "score") -> State:
    """A score's (or a drift's) answer at times ``b`` and rows ``b *d``, as a tensor like the rows.

    Raises:
        InputError: where the score fails, or returns another shape, no finite numbers, or values that do not follow
            their rows in PyTorch's graph although a derivative is to be taken.
    """
    return asked(score, x, {"t": t, "x": x} | ({} if condition is None else {"condition": condition}), name)


def ask_at(score: Score, x: State) -> State:
    """The same of a score that is a function of the rows alone."""
    return asked(score, x, {"x": x}, "score")


def asked(score: Score, x: State, given: dict[str, Tensor], name: str) -> State:
    """The same of what is called with other arguments: ``given`` in their order, the rows as its ``x``."""
    call = f"{name}({', '.join(given)})"
    try:
        value = score(*given.values())
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, InputError | torch.cuda.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        shapes = ", ".join(f"{key} of shape {tuple(part.shape)}" for key, part in given.items())
        raise InputError(f"The {name} fails when it is called as {call} with {shapes}, {x.dtype}: {reason}") from error
    value = like_rows(value, x, name, call=call)
    if torch.is_grad_enabled() and x.requires_grad and not value.requires_grad:
        with torch.no_grad():  # a constant has no graph either
            moved = torch.as_tensor(score(*(given | {"x": x.detach() + 1.0}).values()))
        if not torch.equal(moved.reshape(value.shape).to(value), value):
            raise InputError(
                f"The {name}'s values do not follow its rows in PyTorch's graph, so that no derivative can be taken: "
                "compute them from x with PyTorch, without NumPy, detach() or no_grad()"
            )
    return value


def like_rows(value: Any, x: State, name: str, *, call: str | None = None, finite: bool = True) -> State:
    """What a score or network returned for rows ``x``, looked at: arrays become tensors of the rows' dtype.

    Args:
        value: what was returned.
        x: the rows it was asked at, ``b *d``.
        name: what returned it.
        call: how it was called.
        finite: whether to look for missing and infinite values too.

    Raises:
        InputError: for another shape, or values that are missing or infinite.
    """
    if not isinstance(value, Tensor):
        value = _tensor(value, f"What the {name} returns")
        value = value if value.is_complex() else value.to(x)
    if value.ndim > 1 and value.shape != x.shape and value[0].numel() == x[0].numel():
        value = value.reshape(x.shape) if len(value) == len(x) else value  # events may be flattened
    if value.shape != x.shape or value.is_complex():
        raise InputError(
            f"The {name} returned shape {tuple(value.shape)}, {value.dtype}, for rows of shape {tuple(x.shape)}: "
            f"{'' if call is None else f'it is called as {call} and '}it must return one real number for every entry"
        )
    if finite and not bool(value.detach().isfinite().all()):
        row = int((~value.detach().flatten(1).isfinite().all(1)).nonzero()[0])
        raise InputError(
            f"The {name} is not finite: missing or infinite values for rows of shape {tuple(x.shape)}, first for a row "
            f"whose largest entry is {float(x[row].detach().abs().max()):.3g}; it must be finite wherever rows go"
        )
    return value


def _tensor(value: Any, what: str) -> Tensor:
    """A tensor of whatever NumPy can make real or complex numbers of."""
    try:
        array = np.ma.filled(value.astype(float), np.nan) if np.ma.isMaskedArray(value) else np.asarray(value)
        if array.dtype == object or array.dtype.itemsize > 16:  # frames of several dtypes; long doubles
            array = array.astype(np.float64)
        kind = array.dtype.kind
    except (TypeError, ValueError, RuntimeError):
        kind = "O"
    if kind not in "biufc":
        raise InputError(f"{what} must be numbers in a tensor, array, data frame or lists; got {_kind(value)}")
    return torch.from_numpy(array.astype(np.int64) if kind in "iu" else array.copy())


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ if dtype is None else f"{type(value).__name__} of {dtype}"


def _kinds(annotation: Any) -> tuple[Any, ...] | None:
    """What an annotation allows, where it names nothing but classes, numbers, literals and ``None``."""
    members = get_args(annotation) if isinstance(annotation, UnionType) or get_origin(annotation) is Union else ()
    members = members or (annotation,)
    protocols = (m for m in members if getattr(m, "_is_protocol", False))
    plain = all((isinstance(m, type) and get_origin(m) is None) or get_origin(m) is Literal for m in members)
    if (
        not plain
        or {Any, Tensor, inspect.Parameter.empty} & set(members)
        or not all(getattr(m, "_is_runtime_protocol", False) for m in protocols)
    ):
        return None
    return tuple(members)


def _require_kind(name: str, value: Any, kinds: tuple[Any, ...]) -> None:
    """An argument is what its annotation says."""
    for kind in kinds:
        if get_origin(kind) is Literal:
            fits = value in get_args(kind)
        elif kind is float:
            fits = isinstance(value, Real) and not isinstance(value, bool) and value == value
        else:
            fits = isinstance(value, {int: Integral, bool: bool | np.bool_}.get(kind, kind))
        if fits:
            return
    names = [repr(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    names += [
        {float: "a number", int: "a whole number", type(None): "None"}.get(k, getattr(k, "__name__", "")) for k in kinds
    ]
    advice = ": make one of the score and its process, ScorePair(score, process)" if "ScorePair" in names else ""
    shown = " ".join(repr(value).split())[:80]
    raise InputError(f"{name} must be {' or '.join(n for n in names if n)}; got {shown}{advice}")


def _require_order(given: Mapping[str, Any]) -> None:
    """The score first, then the process."""
    score, process = given.get("score"), given.get("process")
    if process is not None and not hasattr(process, "marginal_at"):
        raise InputError(
            f"The process must be a linear one, such as VariancePreserving(); got {type(process).__name__}: arguments "
            "come in the order (score, process)"
        )
    if score is not None and not callable(score):
        raise InputError(f"The score must be a function (t, x) -> grad log p_t(x); got {type(score).__name__}")


def _levels(levels: Any) -> Tensor:
    found = levels if isinstance(levels, Tensor) else _tensor(levels, "levels")
    if found.ndim != 1 or not len(found) or not bool(found.isfinite().all()):
        raise InputError(f"levels must be one noise level or more, finite log-SNRs of shape (k,); got {levels!r:.80}")
    return found


def _event_shape(shape: Any) -> tuple[int, ...]:
    sides: Sequence[Any] = (shape,) if isinstance(shape, int) else tuple(shape)
    return tuple(require_count("every entry of event_shape", side) for side in sides)


def _require_fit(given: Mapping[str, Any]) -> None:
    """Rows have as many entries as those of the laws beside them."""
    found: Sequence[int] | None = given["x"].shape[1:] if "x" in given else given.get("event_shape")
    if found is None:
        return
    for name in LAWS:
        law = given.get(name)
        if name == "score":  # the reference of a closed form is computed when it is asked for
            law = getattr(law, "density" if hasattr(law, "density") else "reference", None)
        shape = getattr(law, "event_shape", None)
        if shape and math.prod(shape) != math.prod(found):
            raise InputError(
                f"Rows of shape (n, {_listed(found)}) do not fit this {type(law).__name__}, whose rows have shape (n, "
                f"{_listed(shape)})"
            )
