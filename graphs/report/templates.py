"""The templates of pages: everything from outside is escaped, and a missing value is an error."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """One of the reports, or of the page of ``junto serve``, which shows parts of them."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("graphs.report", "."), PackageLoader("graphs.web", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)
