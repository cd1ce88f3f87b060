"""Refuse a torch file that would exhaust the machine, before anything of it is unpickled.

Not only an object that runs code is a danger. A few bytes of a pickle can stand for more than any machine computes or
holds: tuples of tuples that are hashed part by part, a memo of billions of places, one stretch of an archive that a
thousand names point to.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from pickletools import OpcodeInfo, genops, markobject
from typing import IO
from zipfile import ZIP_STORED, ZipFile, is_zipfile

from torch import Tensor, strided

from hela_store.errors import CheckpointError

MOST_PARTS = 10**8
"""Parts of all tuples of a pickle, each counted as often as it is mentioned; a ViT-H has some 10**5."""
PICKLES = 5
"""How many pickles follow each other in a file of torch before 1.6."""
FROM_PARTS = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}


def check_file(path: Path) -> None:
    """Refuse a torch file whose pickle or whose archive comes to far more than its bytes.

    Raises
    ------
    CheckpointError
        Parts that are compressed or overlap, which torch never writes.
    Exception
        Of any kind: the pickle is damaged, or built to exhaust the machine.
    """
    if not is_zipfile(path):
        _check_old(path)
        return
    with ZipFile(path) as archive:
        parts = archive.infolist()
        packed = [part for part in parts if part.compress_type != ZIP_STORED]
        size = path.stat().st_size
        if packed or sum(part.file_size for part in parts) > size:
            what = "compressed parts" if packed else f"parts that come to more than its {size} bytes"
            raise CheckpointError(f"{path} has {what}, which torch never writes; save it again with torch.save")
        for part in parts:
            if part.filename.endswith("data.pkl"):
                with archive.open(part) as file:
                    check_pickle(file)


def check_tensors(path: Path, tensors: Iterable[tuple[object, Tensor]]) -> None:
    """Refuse tensors that are not plain numbers of the file, such as one value that stands for any number of them.

    Raises
    ------
    CheckpointError
        A sparse or quantized tensor, one without values, or one that is larger than its file.
    """
    size = path.stat().st_size
    for name, value in tensors:
        if value.layout is not strided or value.is_quantized or value.device.type != "cpu":
            kind = f"{value.dtype}, {value.layout}, {value.device}".replace("torch.", "")
            raise CheckpointError(f"{path}: {name} is of {kind}; expected plain floating-point numbers")
        if value.numel() * value.element_size() > size:
            raise CheckpointError(
                f"{path}: {name} of shape {tuple(value.shape)} is larger than the file; save the model's state_dict()"
            )


def check_pickle(file: IO[bytes]) -> None:
    """Walk over one pickle without making anything of it.

    Raises
    ------
    pickle.UnpicklingError
        Its tuples or its memo would exhaust the machine.
    Exception
        Of any kind: it is damaged.
    """
    stack: list[int | None] = []  # the parts of each value; None is a mark
    memo: dict[int, int] = {}
    total = 0
    for number, (opcode, argument, _) in enumerate(genops(file)):
        if opcode.name in PUTS:
            place = len(memo) if opcode.name == "MEMOIZE" else int(argument or 0)
            if place > number:
                raise pickle.UnpicklingError("a memo with more places than the pickle has values")
            memo[place] = stack[-1] or 1
        elif opcode.name in GETS:
            stack.append(memo.get(int(argument or 0), 1))
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        else:
            _step(opcode, stack)
        total += (stack[-1] or 0) if stack else 0
        if total > MOST_PARTS:
            raise pickle.UnpicklingError("tuples of tuples that no machine could hash")


def _step(opcode: OpcodeInfo, stack: list[int | None]) -> None:
    """Take from the stack what an opcode takes, and put there what it leaves."""
    before, taken = opcode.stack_before, []
    if markobject in before:
        while (value := stack.pop()) is not None:
            taken.append(value)
        before = before[: before.index(markobject)]
    for _ in before:
        taken.append(stack.pop() or 0)
    for left in opcode.stack_after:
        if left is markobject:
            stack.append(None)
        elif opcode.name in FROM_PARTS:
            stack.append(1 + sum(taken))
        else:
            stack.append(taken[-1] if opcode.name == "BUILD" else 1)


def _check_old(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(PICKLES):
            try:
                check_pickle(file)
            except pickle.UnpicklingError:
                raise
            except Exception:  # not a pickle: torch says what it makes of it
                return
