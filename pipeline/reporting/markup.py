"""HTML and SVG that show every text literally: escaped, with control characters as their numbers."""

import base64
import io
from typing import Any

import jinja2
import PIL.Image
from markupsafe import Markup, escape

from pipeline.config.names import ASSETS
from pipeline.errors import visible


def finalize(value: Any) -> Any:
    """Return a value of the template as it is shown: `visible` if it is a text and not markup."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render_template(template: str, **values: Any) -> str:
    """Return a page from a template of `assets`. Every text in it is escaped and shown literally."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """Return an element. Texts and values are escaped; markup is kept.

    Args:
        tag: Its name.
        children: Texts and elements.
        attributes: Values by name. `_` stands for `-`, and a last `_` is removed (`class_`). None: no attribute.
    """
    written = "".join(
        f' {name.removesuffix("_").replace("_", "-")}="{escape(finalize(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(finalize(child)) for child in children)
    return Markup(f"<{tag}{written}>{inside}</{tag}>")


def shorten(text: str, at_most: int) -> str:
    """Return a text of at most this many characters. The last one is an ellipsis if the text was cut."""
    return text if len(text) <= at_most else text[: at_most - 1] + "…"


def data_uri(jpeg: bytes | None) -> str | None:
    """Return a JPEG as the address of an image, or None if there is none."""
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def png_uri(image: PIL.Image.Image) -> str:
    """Return a picture as the address of an image."""
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
