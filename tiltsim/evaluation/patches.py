"""Other people's networks: anything that maps patches around B columns to displacements, from a file or from Python."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tiltsim.errors import SettingsError

#: From patches (n, pixels, pixels) to whatever the network says.
Batch = Callable[[NDArray[np.float32]], Any]

#: Patches at once where the file does not fix it: bounds memory.
_BATCH = 1024


def as_table(output: Any, n: int, name: str) -> NDArray[np.float64]:
    """What a network says of ``n`` patches as (n, 2) or (n, 4).

    Raises
    ------
    SettingsError
        If it is of another shape, or no number.
    """
    try:
        if isinstance(output, torch.Tensor):
            output = output.detach().cpu().numpy()
        table = np.asarray(output, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{name} returned {type(output).__name__}, not an array of numbers; it must return d as (n, 2) pm."
        ) from error
    if table.shape not in ((n, 2), (n, 4)):
        raise SettingsError(
            f"{name} returned an array of shape {table.shape} for {n} patches; it must return d_x, d_y in pm as ({n}, 2), "
            f"or with the half widths of their 90 % intervals as ({n}, 4)."
        )
    return table


def from_callable(function: Callable[[Any], Any], name: str) -> Batch:
    """A Python callable that takes a numpy array of patches (n, pixels, pixels)."""

    def run(stack: NDArray[np.float32]) -> NDArray[np.float64]:
        try:
            output = function(stack)
        except Exception as error:  # of code we do not know
            raise SettingsError(
                f"{name} failed on patches of shape {stack.shape}: {_said(error)}; it must take float32 (n, p, p)."
            ) from error
        return as_table(output, len(stack), name)

    return run


def from_module(module: torch.nn.Module, name: str) -> Batch:
    """A torch module that takes (n, pixels, pixels) or, with a channel, (n, 1, pixels, pixels)."""
    module.eval()
    return _torch_batches(module, name, None)


def from_exported(path: Path, pixels: int) -> Batch:
    """A program of ``torch.export.save``. Reading it trusts it: torch unpickles what such a file may hold.

    Raises
    ------
    SettingsError
        If it cannot be read, or takes patches of another size.
    """
    try:
        program = torch.export.load(path)
        kinds = program.graph_signature.input_specs
        inputs = {s.arg.name for s in kinds if s.kind is torch.export.graph_signature.InputKind.USER_INPUT}
        nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]
        shape = [n.meta["val"].shape for n in nodes]
    except Exception as error:  # torch raises almost anything for a damaged file
        raise SettingsError(
            f"{path} is not a program of this torch ({torch.__version__}): {_said(error)}; write it with torch.export.save."
        ) from error
    if len(shape) != 1:
        raise SettingsError(
            f"{path} takes {len(shape)} inputs; export a module that takes patches (n, p, p) alone."
        )
    sizes = [int(s) if isinstance(s, int) else None for s in shape[0]]
    channel = _layout(sizes, pixels, str(path))
    return _torch_batches(program.module(), str(path), channel, sizes[0])


def _torch_batches(
    module: Any, name: str, channel: bool | None, fixed: int | None = None
) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """``module`` on numpy patches; the layout is found by trying where it is not known."""
    layouts = [False, True] if channel is None else [channel]

    def once(part: NDArray[np.float32]) -> NDArray[np.float64]:
        reasons: list[Exception] = []
        for layout in list(layouts):
            given = torch.from_numpy(np.ascontiguousarray(part))
            try:
                with torch.inference_mode():
                    output = module(given[:, None] if layout else given)
                table = as_table(output, len(part), name)
            except Exception as error:  # of code we do not know; both layouts are tried before it counts
                reasons.append(error)
                continue
            layouts[:] = [layout]
            return table
        raise SettingsError(
            f"{name} takes neither patches (n, p, p) nor (n, 1, p, p) of p = {part.shape[1]}: {_said(reasons[-1])}."
            if len(reasons) > 1
            else _said(reasons[0])
        ) from reasons[-1]

    def run(stack: NDArray[np.float32]) -> NDArray[np.float64]:
        return _in_parts(once, stack, fixed)

    return run


def from_onnx(path: Path, pixels: int) -> Batch:
    """An ONNX graph, run by onnxruntime on the CPU; nothing in it is executed but its operators.

    Raises
    ------
    SettingsError
        If onnxruntime is not installed, the file is no ONNX graph, or it takes other patches.
    """
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise SettingsError(
            f"{path}: reading .onnx needs onnxruntime; run `pip install onnxruntime`."
        ) from error
    options = onnxruntime.SessionOptions()
    # Sums must not depend on the number of threads; errors are raised, not also printed.
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base
        raise SettingsError(
            f"{path} is not an ONNX graph that onnxruntime can run: {_said(error)}."
        ) from error
    if len(session.get_inputs()) != 1:
        raise SettingsError(
            f"{path} takes {len(session.get_inputs())} inputs; export a graph that takes patches (n, p, p) alone."
        )
    entry = session.get_inputs()[0]
    if entry.type != "tensor(float)":
        raise SettingsError(f"{path} takes {entry.type}; export a graph that takes float32 patches.")
    sizes = [s if isinstance(s, int) else None for s in entry.shape]
    channel = _layout(sizes, pixels, str(path))

    def once(part: NDArray[np.float32]) -> NDArray[np.float64]:
        given = np.ascontiguousarray(part[:, None] if channel else part)
        try:
            output = session.run(None, {entry.name: given})[0]
        except Exception as error:
            raise SettingsError(
                f"{path} failed on patches of shape {given.shape}: {_said(error)}."
            ) from error
        return as_table(output, len(part), str(path))

    return lambda stack: _in_parts(once, stack, sizes[0])


def _layout(sizes: Sequence[int | None], pixels: int, name: str) -> bool:
    """Whether an input of these sizes (None is free) has a channel.

    Raises
    ------
    SettingsError
        If patches of so many pixels do not fit.
    """
    fits = {3: (None, pixels, pixels), 4: (None, 1, pixels, pixels)}.get(len(sizes))
    if fits is None or any(
        s is not None and f is not None and s != f for s, f in zip(sizes, fits, strict=True)
    ):
        shown = ", ".join("n" if s is None else str(s) for s in sizes)
        raise SettingsError(
            f"{name} takes input of shape ({shown}), not patches ({'n, 1' if len(sizes) == 4 else 'n'}, {pixels}, {pixels}); "
            "set --window-pixels to its size."
        )
    return len(sizes) == 4


def _in_parts(
    once: Callable[[NDArray[np.float32]], NDArray[np.float64]], stack: NDArray[np.float32], fixed: int | None
) -> NDArray[np.float64]:
    """Run batch by batch; where the file fixes how many patches it takes, the last batch is filled up."""
    size = fixed or _BATCH
    tables = []
    for start in range(0, len(stack), size):
        part = stack[start : start + size]
        missing = size - len(part) if fixed else 0
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        tables.append(once(filled)[: len(part)])
    return np.concatenate(tables) if tables else np.empty((0, 2))


def imported(spec: str) -> Any:
    """What "module.py:name" or "package.module:name" names. The module is executed.

    Raises
    ------
    SettingsError
        If there is no such module or name, or importing it fails.
    """
    where, _, name = spec.rpartition(":")
    try:
        module = _module(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except SettingsError:
        raise
    except Exception as error:  # of code we do not know
        raise SettingsError(f"{spec}: importing {where} failed: {_said(error)}.") from error
    if not hasattr(module, name):
        raise SettingsError(f"{spec}: {where} has no {name!r}; name a function or a torch module in it.")
    found = getattr(module, name)
    if not callable(found) or isinstance(found, type):
        raise SettingsError(f"{spec} must be a function or a torch module, not {type(found).__name__}.")
    return found


def _module(path: Path) -> Any:
    if not path.is_file():
        raise SettingsError(f"{path}: no such Python file; check the path.")
    # Under a name of its own, so that it hides no other module; found there by its own dataclasses.
    name = f"_tiltsim_evaluated_{path.stem}_{abs(hash(path.absolute())):x}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _said(error: BaseException) -> str:
    """The first line of an error, without its full stop."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0].strip().removesuffix(".")[:200]
    return (
        text
        if isinstance(error, SettingsError)
        else f"{type(error).__name__}: {text}"
        if text
        else type(error).__name__
    )
