"""Digests of content: two values have equal digests if a run that reads them does the same.

A digest covers everything that is reachable from a value: tensors and arrays, attributes, closures,
and the code of functions and classes of users. It depends on no memory address, no order of a
dict or a set, no stride, no device and no process. Cached values are left out.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import math
import struct
import sys
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invtoolbox.core.user_code import global_variables, is_installed, version_of
from invtoolbox.errors import InputError

_DESCRIPTORS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_PARTS = {
    torch.sparse_coo: ("indices", "values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
#: Packages that moved, and the names under which digests know their classes, so that a run that an
#: older version began can be resumed.
_FORMER_PACKAGES = {"invtoolbox.jobs.photographs.": "invtoolbox.views."}
_ALIKE = (torch.dtype, torch.layout, torch.memory_format)


def digest(
    value: Any,
    name: str = "value",
    key: str | None = None,
    remedy: str = 'give a key="..." that stands for it',
) -> str:
    """Return the digest of the content of a value, as 64 hexadecimal digits.

    Functions and classes of users count with their byte code, which depends on the version of
    Python, and with the global variables that the code reads. Functions and classes of installed
    packages count with their name and the version of the package; those of this package, of torch,
    NumPy and the standard library count with their name alone. Values of cached properties, and
    attributes that a class names in ``cache_fields``, do not count. A class that defines
    ``__getstate__`` or ``__reduce__`` chooses by it what counts.

    Args:
        value: any value.
        name: name of the value in error messages.
        key: text that stands for every object whose content cannot be read.
        remedy: end of the error message.

    Raises:
        InputError: if an object has no content that can be read, such as an open file or a
            generator, and there is no key.

    >>> import torch
    >>> a, b = torch.ones(2, 3), torch.ones(3, 2)
    >>> digest({"a": a, "b": 1.0}) == digest({"b": 1.0, "a": b.T})
    True
    >>> digest(lambda x: 2 * x) == digest(lambda x: 3 * x)
    False
    >>> digest([open(__file__)], "settings")
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: the content of settings[0] (a TextIOWrapper) cannot be read, ...
    """
    reader = _Reader(key, remedy)
    reader.path.append(name)
    try:
        return reader.read(value).hex()
    except RecursionError:
        del reader.path[1:]
        raise reader.refusal(value, "is nested too deeply to be read") from None


class _Reader:
    """Depth-first walk over everything reachable from a value.

    A reference to an object whose visit has not ended, which closes a cycle, counts as its distance
    on the stack. An object of a cycle that was visited before counts as its number. All others
    count as their content, so it makes no difference whether two equal values are one object.
    """

    def __init__(self, key: str | None, remedy: str) -> None:
        self.key, self.remedy = key, remedy
        self.path: list[str] = []
        self.known: dict[int, bytes] = {}  # digests of objects that refer to no open visit
        self.cyclic: dict[int, int] = {}  # numbers of the other visited objects
        self.stack: dict[int, int] = {}  # depths of the objects whose visit has not ended
        self.reach = sys.maxsize  # least depth that the current object refers to
        self.alive: list[Any] = []  # an id is unique only as long as its object lives

    def read(self, value: Any) -> bytes:
        content = _scalar(value)
        if content is not None:
            return content
        number, depth = id(value), len(self.stack)
        if number in self.known:
            return self.known[number]
        if number in self.stack:
            self.reach = min(self.reach, self.stack[number])
            return _join("cycle", depth - self.stack[number])
        if number in self.cyclic:
            return _join("visited", self.cyclic[number])
        outside, self.reach = self.reach, sys.maxsize
        self.stack[number] = depth
        self.alive.append(value)
        content = self._content(value)
        del self.stack[number]
        if self.reach >= depth:
            self.known[number], self.reach = content, outside
        else:
            self.cyclic[number] = len(self.cyclic)
            self.reach = min(self.reach, outside)
        return content

    def refusal(self, value: Any, why: str) -> InputError:
        kind = f"a {type(value).__qualname__}"
        return InputError(f"the content of {''.join(self.path)} ({kind}) {why}; {self.remedy}")

    # -- parts -------------------------------------------------------------------------------------

    def _child(self, label: str, value: Any) -> bytes:
        self.path.append(label)
        content = self.read(value)
        self.path.pop()
        return content

    def _alone(self, value: Any) -> bytes:
        """Read an element of an unordered collection independently of the other elements."""
        content = _scalar(value)
        if content is not None:
            return content
        visited, cyclic = len(self.alive), len(self.cyclic)
        content = self.read(value)
        if len(self.cyclic) > cyclic:  # the numbers of its cycles depend on the order of elements
            for visited_value in self.alive[visited:]:
                self.known.pop(id(visited_value), None)
                self.cyclic.pop(id(visited_value), None)
        return content

    def _mapping(self, entries: Mapping[Any, Any], label: str = "[{!r}]") -> bytes:
        ordered = sorted(((self._alone(key), key) for key in entries), key=lambda pair: pair[0])
        return _join(
            "dict",
            *(
                digest_part
                for key_digest, key in ordered
                for digest_part in (key_digest, self._child(label.format(key), entries[key]))
            ),
        )

    def _attributes(self, entries: Mapping[str, Any]) -> bytes:
        return self._mapping(entries, ".{}")

    def _sequence(self, values: Iterable[Any]) -> bytes:
        return _join("list", *(self._child(f"[{k}]", element) for k, element in enumerate(values)))

    # -- kinds of objects --------------------------------------------------------------------------

    def _content(self, value: Any) -> bytes:
        kind = type(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if kind in (np.ndarray, np.memmap) or isinstance(value, np.generic):
            return self._array(np.asarray(value))
        if kind in (tuple, torch.Size):
            return _join("tuple", self._sequence(value))
        if kind is list:
            return self._sequence(value)
        if kind in (dict, OrderedDict, defaultdict, types.MappingProxyType):
            return _join(self._mapping(value), self.read(getattr(value, "default_factory", None)))
        if kind in (set, frozenset):
            return _join("set", *sorted(self._alone(element) for element in value))
        if isinstance(value, enum.Enum):
            return _join("enum", self.read(kind), value.name)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, types.ModuleType):
            return _join("module", value.__name__, version_of(value.__name__))
        if isinstance(value, types.MethodType):
            return _join("method", self.read(value.__func__), self._child("", value.__self__))
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            return self._builtin(value)
        if isinstance(value, _DESCRIPTORS):
            return _join("descriptor", self.read(value.__objclass__), value.__name__)
        if isinstance(value, (classmethod, staticmethod, functools._lru_cache_wrapper)):
            return _join(kind.__name__, self.read(value.__wrapped__))
        if isinstance(value, functools.cached_property):
            return _join("property", self.read(value.func))
        if isinstance(value, property):
            return _join("property", self._sequence((value.fget, value.fset, value.fdel)))
        if isinstance(value, _WEAK):  # a cache
            return _join("weak")
        if isinstance(value, weakref.ref):
            return _join("reference", self.read(value()))
        if isinstance(value, torch.Generator):
            return _join("generator", self.read(value.get_state()))
        root = kind.__module__.partition(".")[0]
        if root == "scipy" and hasattr(value, "tocoo"):
            entries = value.tocsr(copy=True)
            entries.sum_duplicates()  # SciPy sorts lazily
            parts = entries.shape, entries.indptr, entries.indices, entries.data
            return _join("sparse", value.format, self._sequence(parts))
        if root == "warp" and hasattr(value, "numpy"):
            return self._array(value.numpy())
        if root == "warp" and hasattr(value, "func"):  # a kernel also holds what was compiled
            return _join("warp", self.read(value.func))
        return self._object(value)

    def _tensor(self, value: Tensor) -> bytes:
        plain = value.detach()
        if plain.layout != torch.strided:
            if plain.layout not in _PARTS:
                return self._unreadable(value)
            plain = plain.coalesce() if plain.layout == torch.sparse_coo else plain
            parts = [getattr(plain, name)() for name in _PARTS[plain.layout]]
            about = str(plain.layout), str(tuple(plain.shape))
            return _join("sparse", *about, self._sequence(parts))
        if plain.device.type == "meta":
            return self._unreadable(value)
        if plain.is_quantized:
            plain = plain.dequantize()
        plain = plain.cpu().resolve_conj().resolve_neg().contiguous()
        raw = plain.flatten().view(torch.uint8).numpy()
        return _join("tensor", str((value.dtype, tuple(value.shape))), _bytes(raw))

    def _array(self, value: np.ndarray) -> bytes:
        about = "array", str(value.dtype.descr if value.dtype.names else value.dtype.str)
        if value.dtype.hasobject:
            return _join(*about, str(value.shape), self._sequence(value.ravel().tolist()))
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return _join(*about, str(value.shape), _bytes(raw))

    def _module(self, value: nn.Module) -> bytes:
        if isinstance(value, torch.jit.ScriptModule):
            return self._unreadable(value)
        state = dict(vars(value))
        modules = state["_modules"]
        if type(value).__name__ == "OptimizedModule" and "_orig_mod" in modules:
            return self.read(modules["_orig_mod"])  # torch.compile
        hooks = [list(state[k].values()) for k in ("_forward_pre_hooks", "_forward_hooks")]
        # The other hooks do not change what a module computes, and hooks are numbered per process.
        skipped = {
            "_is_torch_compile",
            "_compiled_call_impl",
            "_non_persistent_buffers_set",
            "_is_full_backward_hook",
        }
        attributes = {
            name: attribute
            for name, attribute in _without_caches(type(value), state).items()
            if name not in skipped and not (name.startswith("_") and "hooks" in name)
        }
        parts = {
            **attributes.pop("_parameters"),
            **attributes.pop("_buffers"),
            **attributes.pop("_modules"),
        }
        return _join(
            "network",
            self.read(type(value)),
            self._attributes(attributes),
            self._attributes(parts),
            self.read(hooks),
        )

    def _object(self, value: Any) -> bytes:
        reducer = copyreg.dispatch_table.get(type(value))
        try:
            reduced = reducer(value) if reducer else value.__reduce_ex__(4)
        except Exception:
            reduced = None
        if isinstance(reduced, str):
            return self._global(value, reduced)
        if reduced is None:
            return self._unreadable(value)
        make, arguments, state, items, entries = (*reduced, None, None, None)[:5]
        if isinstance(state, dict):
            state_digest = self._attributes(_without_caches(type(value), state))
        elif isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            slots = self._attributes(state[1])
            attributes = state[0]
            if isinstance(attributes, dict):
                attributes = _without_caches(type(value), attributes)
            state_digest = _join(self._child("", attributes) if attributes else "", slots)
        else:
            state_digest = self._child("", state)
        return _join(
            "object",
            self.read(make),
            self._child("", tuple(arguments)),
            state_digest,
            self._sequence(items or ()),
            self._mapping(dict(entries or ())),
        )

    def _global(self, value: Any, name: str) -> bytes:
        """Read an object that is known by the name of a global variable, such as a ufunc."""
        module_names = (
            getattr(value, "__module__", None),
            type(value).__module__,
            "numpy",
            "scipy.special",
        )
        for where in module_names:
            if where and getattr(sys.modules.get(where), name, None) is value:
                return _join("global", where, name, version_of(where))
        return self._unreadable(value)

    def _unreadable(self, value: Any) -> bytes:
        if self.key is None:
            raise self.refusal(value, "cannot be read, so it cannot be compared")
        return _join("key", self.key)

    # -- code --------------------------------------------------------------------------------------

    def _builtin(self, value: Any) -> bytes:
        owner = value.__self__
        if owner is None or isinstance(owner, types.ModuleType):
            return _join("builtin", str(value.__module__), value.__qualname__)
        return _join("builtin", self._child("", owner), value.__name__)

    def _class(self, value: type) -> bytes:
        place = value.__module__
        for package, before in _FORMER_PACKAGES.items():
            place = place.replace(package, before, 1) if place.startswith(package) else place
        about = "class", place, value.__qualname__
        if is_installed(value.__module__):
            return _join(*about, version_of(value.__module__))
        counted = {
            name: member
            for name, member in vars(value).items()
            if not isinstance(member, (types.GetSetDescriptorType, types.MemberDescriptorType))
            and name != "_abc_impl"
            and not (
                name.startswith("__")
                and name.endswith("__")
                and not isinstance(
                    member, (types.FunctionType, classmethod, staticmethod, property)
                )
            )
        }
        return _join(*about, self._sequence(value.__bases__), self._attributes(counted))

    def _function(self, value: types.FunctionType) -> bytes:
        compiled = vars(value).get("_torchdynamo_orig_callable")
        if compiled is not None:
            return self.read(compiled)
        code, where = value.__code__, value.__globals__.get("__name__", "")
        closure: dict[str, Any] = {}
        for name, cell in zip(code.co_freevars, value.__closure__ or ()):
            try:
                closure[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                closure[name] = None
        label = f", variable {{}} of the function {value.__qualname__}"
        held = self._mapping(closure, label)
        if is_installed(where):
            about = _join("function", where, code.co_qualname, version_of(where), held)
            if "<" not in code.co_qualname:
                return about
            return _join(about, self._code(code), self.read(value.__defaults__))
        attributes = {
            name: attribute
            for name, attribute in vars(value).items()
            if name != "__wrapped__" and not name.startswith("_torchdynamo")
        }
        return _join(
            "function",
            self.read(code),
            held,
            self._mapping(global_variables(value), label),
            *(self._child("", some) for some in (value.__defaults__, value.__kwdefaults__)),
            self._attributes(attributes),
        )

    def _code(self, code: types.CodeType) -> bytes:
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        return _join(
            "code",
            code.co_code,
            code.co_exceptiontable,
            self.read((names, counts)),
            self.read(code.co_consts),
        )


def _scalar(value: Any) -> bytes | None:
    """Return the content of a plain value, or None."""
    kind = type(value)
    if kind is str:
        return _join("str", value)
    if value is None or kind in (bool, int):
        return _join(kind.__name__, repr(value))
    if kind is float:
        return _join("float", _of_float(value))
    if kind is complex:
        return _join("complex", _of_float(value.real), _of_float(value.imag))
    if kind in (bytes, bytearray):
        return _join(kind.__name__, bytes(value))
    if kind is torch.device:
        return _join("device")
    return _join("torch", str(value)) if kind in _ALIKE else None


def _of_float(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack("<d", value)


def _join(*parts: str | bytes | int) -> bytes:
    sha256 = hashlib.sha256()
    for piece in parts:
        raw = piece if isinstance(piece, bytes) else str(piece).encode("utf-8", "surrogatepass")
        sha256.update(len(raw).to_bytes(8, "little"))
        sha256.update(raw)
    return sha256.digest()


def _bytes(raw: np.ndarray) -> bytes:
    return hashlib.sha256(raw.data).digest()


def _without_caches(kind: type, state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the values of cached properties, and the ``cache_fields`` of all base classes."""
    caches = {name for base in kind.__mro__ for name in vars(base).get("cache_fields", ())}
    return {
        name: attribute
        for name, attribute in state.items()
        if name not in caches and not isinstance(_attribute(kind, name), functools.cached_property)
    }


def _attribute(kind: type, name: str) -> Any:
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
