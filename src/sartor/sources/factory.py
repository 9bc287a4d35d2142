"""'path/file.py:name' and 'package.module:name': the user's own code, found and called."""

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
        place: 'path/file.py' or 'package.module'. The file's folder, or the working folder for a module, is on the
            import path while it loads. A file is run anew by every call.
        name: of a function, a class or anything else at the top level of it.

    Returns:
        The object.

    Raises:
        BadInput: no such file or module, or its own code raised; that error is chained.
        UnknownName: nothing there has this name; says which one is nearest.
    """
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    if not name or not hasattr(module, name):
        own = [n for n, v in vars(module).items() if not n.startswith("_") and callable(v)]
        raise UnknownName(f"factory in {place}", name, own)
    return getattr(module, name)


def call_factory(factory: Any, options: Mapping[str, Any], place: str, name: str) -> Any:
    """factory(**options); what it raises reaches the user, chained to a sentence that says where.

    Args:
        factory: any callable.
        options: keyword arguments; checked against its signature before the call.
        place, name: where it came from, as for `find_factory`.

    Raises:
        BadInput: the object cannot be called, does not take these options, or raised.
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
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise BadInput(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        with _on_path(path.parent):
            found.loader.exec_module(module)
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
    """The folder is first on the import path inside the block."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
