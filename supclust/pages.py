"""The templates of the HTML pages that are written: escaped, and strict about names that nobody has set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2

from supclust import paths

TEMPLATES = paths.PACKAGE / "templates"


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """The template of that name, which may use these filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
