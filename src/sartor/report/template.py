"""Rendering of the templates in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from sartor.errors import MissingExtra


def markup_type(needed_for: str) -> type[str]:
    """The type of text that is already markup and is not escaped.

    Raises:
        MissingExtra: jinja2 is not installed; the message says that `needed_for` needs it.
    """
    try:
        import jinja2  # noqa: F401
        from markupsafe import Markup
    except ImportError as e:
        raise MissingExtra("jinja2", "report", needed_for) from e
    return Markup


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A template of this folder, rendered with `values`, which are escaped; it may include other templates."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: resources.files("sartor.report").joinpath(name).read_text("utf-8")),
    )  # fmt: skip
    return environment.get_template(template).render(values)
