"""Values into the templates of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from sartor.errors import MissingExtra


def markup_type(needed_for: str) -> type[str]:
    """The type of words that are markup already, and are not escaped.

    Raises:
        MissingExtra: jinja2 is not installed; says what it is needed for.
    """
    try:
        import jinja2  # noqa: F401
        from markupsafe import Markup
    except ImportError as e:
        raise MissingExtra("jinja2", "report", needed_for) from e
    return Markup


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A template of this folder with its values, all words escaped; it may include others of this folder."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: resources.files("sartor.report").joinpath(name).read_text("utf-8")),
    )  # fmt: skip
    return environment.get_template(template).render(values)
