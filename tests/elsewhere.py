"""A second device without an accelerator: tensors that say they are elsewhere and refuse to be mixed with those here.

Inside :func:`accelerator` the device ``meta`` computes: a tensor there holds its values in a tensor here, every
operation is run on these, and operands of two devices are the error that CUDA would raise. As there, a 0-dimensional
tensor may come from here, indices too, copies cross, and a generator draws only on its own device. What this cannot
show is what an accelerator rounds otherwise.
"""

__all__ = ["DEVICE", "accelerator"]

import contextlib
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
aten = torch.ops.aten
CROSSING = {aten.copy_.default, aten._to_copy.default}  # copies
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Remote(torch.Tensor):
    """A tensor elsewhere; ``inner`` holds its values here."""

    @staticmethod
    def __new__(cls, inner):
        options = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **options)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self):
        return f"Remote({self.inner!r})"

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, *, force=False):
        raise TypeError("can't convert a tensor that is elsewhere to numpy: copy it here first")


class _Factories(TorchDispatchMode):
    """Sends what is made elsewhere, or copied there, through the same rules."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") is not None or any(isinstance(leaf, Remote) for leaf in tree_leaves((args, kwargs))):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


class _Constants(TorchFunctionMode):
    """Numbers from Python arrive by a copy: PyTorch itself makes a ``meta`` tensor of them without values."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Remote):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(DEVICE)
        return func(*args, **kwargs)


def _is_there(device):
    return device is not None and torch.device(device).type == DEVICE.type


def _run(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    remote = [leaf for leaf in tensors if isinstance(leaf, Remote)]
    _require_one_device(func, args, tensors, remote)
    target = kwargs.get("device")
    there = bool(remote) if target is None else _is_there(target)
    generator = next((leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, torch.Generator)), None)
    if there and generator is not None:
        raise RuntimeError(f"{func}: expected a generator elsewhere, found one here")
    here_args, here_kwargs = tree_map_only(Remote, lambda leaf: leaf.inner, (args, kwargs))
    if target is not None:
        here_kwargs = here_kwargs | {"device": "cpu"}
    out = func(*here_args, **here_kwargs)
    if not there:
        return out
    wrapped = tree_map_only(torch.Tensor, Remote, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if remote else wrapped


def _require_one_device(func, args, tensors, remote):
    if func in CROSSING or not remote:
        return
    local = [tensor for tensor in tensors if not isinstance(tensor, Remote) and tensor.ndim > 0]
    indices_here = func in INDEXING and isinstance(args[0], Remote)
    if local and not indices_here:
        shapes = [tuple(tensor.shape) for tensor in local]
        raise RuntimeError(f"{func}: expected all tensors to be on the same device; here are {shapes}")


@contextlib.contextmanager
def accelerator():
    """Let the device ``meta`` compute."""
    fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch(fused, return_value=["cpu", DEVICE.type]))
        stack.enter_context(_Factories())
        stack.enter_context(_Constants())
        yield
