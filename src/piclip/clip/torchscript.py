"""The tensors of a TorchScript archive, the form of OpenAI's own files, read as data.

``torch.jit.load`` runs the archive's code: a module's ``__setstate__`` may write files or never
end. Here the pickle of the modules is read by an interpreter that knows the few instructions that
TorchScript writes and calls nothing that the archive names. An archive that needs its own code to
restore its weights is refused.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import zipfile
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_MAX_PICKLE = 4 << 20  # bytes; ViT-L's is a tenth of that, and its size bounds all that it makes
_MAX_NAME = 256  # characters of a tensor's name
_MAX_DIMENSIONS = 8

_TENSOR = "torch._utils _rebuild_tensor_v2"
_DICT = "collections OrderedDict"
_TYPED = "torch.jit._pickle "  # build_intlist, restore_type_tag, ...: the type of a plain value
_CLASSES = "__torch__"
_DTYPES = {
    "torch DoubleStorage": torch.float64, "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16, "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64, "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16, "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8, "torch BoolStorage": torch.bool,
}  # fmt: skip


@dataclass(eq=False)
class _Module:
    """A module of the archive: its attributes, none of its code."""

    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names; it is compared, never looked up."""

    name: str


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Whether the archive is TorchScript's: only those have a table of constants."""
    return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Read the tensors that are attributes of an archive's modules; none of its code is run.

    Its entries are stored as they are, as torch writes them. The names are those that
    ``torch.jit.load(...).state_dict()`` has (``visual.conv1.weight``), and of plain attributes.

    Raises:
        pickle.UnpicklingError: If it holds other things than modules, tensors and plain values, or
            modules that restore themselves by their own code.
        Exception: Nearly any, if it is damaged.
    """
    (constants,) = (name for name in archive.namelist() if name.endswith("/constants.pkl"))
    return _named_tensors(_Unpickler(archive, constants.removesuffix("constants.pkl")).load())


def _named_tensors(root: object) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    # Attributes within themselves, or of many modules, would make names without end.
    seen: set[int] = set()
    modules = [("", root)]
    while modules:
        prefix, module = modules.pop()
        if not isinstance(module, _Module) or id(module.attributes) in seen:
            raise pickle.UnpicklingError("modules that are not a tree")
        seen.add(id(module.attributes))
        for key, value in module.attributes.items():
            if not isinstance(value, (Tensor, _Module)):
                continue
            if len(name := f"{prefix}{key}") > _MAX_NAME:
                raise pickle.UnpicklingError("a name that is too long")
            if isinstance(value, Tensor):
                named[name] = value
            else:
                modules.append((f"{name}.", value))
    return named


class _Unpickler:
    """Runs the pickle's instructions on plain values; what is not known here is refused."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, Tensor] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []

    def load(self) -> object:  # noqa: PLR0912 - a flat list of instructions
        stack, memo = self._stack, dict[Any, Any]()
        for instruction, argument, _ in pickletools.genops(self._entry("data.pkl", _MAX_PICKLE)):
            match instruction.name:
                case "PROTO":
                    pass
                case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(instruction.name == "NEWTRUE")
                case "MARK":
                    self._marks.append(len(stack))
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    length = int(instruction.name[-1])
                    stack[-length:] = [tuple(stack[-length:])]
                case "TUPLE":
                    stack.append(tuple(self._pop_to_mark()))
                case "APPENDS":
                    self._extend(self._pop_to_mark())
                case "SETITEMS":
                    self._update(self._pop_to_mark())
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(_Global(str(argument)))
                case "BINPERSID":
                    stack.append(self._storage(*stack.pop()))
                case "NEWOBJ" | "REDUCE":
                    arguments, called = stack.pop(), stack.pop()
                    stack.append(self._made(called, arguments))
                case "BUILD":
                    self._build(stack.pop())
                case "STOP":
                    return stack.pop()
                case other:
                    raise pickle.UnpicklingError(f"the instruction {other}")
        raise EOFError

    def _pop_to_mark(self) -> list[Any]:
        at = self._marks.pop()
        popped = self._stack[at:]
        del self._stack[at:]
        return popped

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise pickle.UnpicklingError("items of what is no list")
        self._stack[-1].extend(values)

    def _update(self, items: list[Any]) -> None:
        # Other keys may be nested so deeply that hashing them overflows the C stack.
        if not isinstance(self._stack[-1], dict) or not all(
            isinstance(key, (str, int, float)) for key in items[::2]
        ):
            raise pickle.UnpicklingError("items of what is no dictionary")
        self._stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _made(self, called: object, arguments: tuple[Any, ...]) -> object:
        """What a call would make, of the few that are known; nothing is called."""
        name = called.name if isinstance(called, _Global) else ""
        if name.startswith(_CLASSES):
            return _Module()
        if name == _TENSOR:
            storage, offset, size, stride = arguments[:4]
            # The other bounds are checked by as_strided.
            if len(size) > _MAX_DIMENSIONS or math.prod(size) > storage.numel():
                raise pickle.UnpicklingError("a tensor that is larger than its storage")
            return torch.as_strided(storage, size, stride, offset)
        if name == _DICT:
            return {}
        if name.startswith(_TYPED) or name == "torch device":
            return arguments[0]
        raise pickle.UnpicklingError("objects of another kind")

    def _build(self, state: object) -> None:
        module = self._stack[-1]
        # A module's attributes are a dictionary, but where its own __setstate__ takes its state.
        if not isinstance(module, _Module) or not isinstance(state, dict):
            raise pickle.UnpicklingError("objects that restore themselves by their own code")
        module.attributes = state

    def _storage(self, _: object, kind: _Global, key: str, _device: str, length: int) -> Tensor:
        # Another kind of key may be nested so deeply that hashing it overflows the C stack.
        if not isinstance(key, str):
            raise pickle.UnpicklingError("a storage without a name")
        if key not in self._storages:
            dtype = _DTYPES[kind.name]
            data = bytearray(self._entry(f"data/{key}", length * dtype.itemsize))
            if len(data) != length * dtype.itemsize:
                raise EOFError
            self._storages[key] = (
                torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            )
        return self._storages[key]

    def _entry(self, name: str, limit: int) -> bytes:
        """An entry's bytes; torch stores these as they are, so that none unpacks to more."""
        entry = self._archive.getinfo(self._prefix + name)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit:
            raise pickle.UnpicklingError("an entry that is compressed or too large")
        return self._archive.read(entry)
