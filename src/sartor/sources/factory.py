"""Factories in the user's code: 'path/file.py:name' and 'package.module:name', imported and called."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sartor.errors import BadInput, SartorError, UnknownName


def find_factory(place: str, name: str) -> Any:
    """The object called `name` in a Python file or an importable module.

    Args:
        place: 'path/file.py' or 'package.module'. While it is imported, the file's folder, or the working folder for a
            module, is on the import path. A file is executed again by every call.
        name: of a function, class or other object at the top level of the file or module.

    Raises:
        BadInput: no such file or module, or importing it raised; that error is chained.
        UnknownName: the file or module has no such name; the message names the nearest.
    """
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    if not name or not hasattr(module, name):
        own = [n for n, v in vars(module).items() if not n.startswith("_") and callable(v)]
        raise UnknownName(f"factory in {place}", name, own)
    return getattr(module, name)


def call_factory(factory: Any, options: Mapping[str, Any], place: str, name: str) -> Any:
    """Call factory(**options).

    Args:
        factory: any callable.
        options: keyword arguments; checked against the signature before the call.
        place, name: where it was found, as for `find_factory`; used in messages.

    Raises:
        BadInput: the object is not callable, does not take these options, or raised an error, which is chained.
    """
    where = f"{place}:{name}"
    if not callable(factory):
        raise BadInput(f"{where}: expected a function or class to call; got {type(factory).__name__}")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        signature = None
    if signature is not None:
        try:
            signature.bind(**options)
        except TypeError as e:
            raise BadInput(f"{where} takes {signature}; got options {dict(options)}: {e}") from None
    try:
        with _on_path(Path(place).parent if place.endswith(".py") else Path.cwd()):
            return factory(**options)
    except SartorError:
        raise
    except Exception as e:
        raise BadInput(f"{where} raised {type(e).__name__}: {e}") from e


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: expected 'path/file.py:factory'")
    path = path.resolve()
    name = f"sartor_source_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _on_path(path.parent):
            spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        raise BadInput(f"{path} raised {type(e).__name__} while it was loaded: {e}") from e
    return module


def _from_name(name: str) -> ModuleType:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(f"expected 'path/file.py:factory' or 'package.module:factory'; got {name!r} before the colon")
    try:
        with _on_path(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(e.name + ".")):
            raise BadInput(f"no module {name!r}: install it, or write 'path/file.py:factory'") from None
        raise BadInput(f"module {name!r} raised {type(e).__name__} while it was imported: {e}") from e
    except Exception as e:
        raise BadInput(f"module {name!r} raised {type(e).__name__} while it was imported: {e}") from e


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Inside the block, the folder is the first on the import path."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
