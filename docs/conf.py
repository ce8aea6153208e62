"""The documentation site: ``python -m sphinx -W -n --keep-going -b html docs docs/_build/html``.

Everything it needs is in the repository; the build opens no connection.
"""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_annotation, desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, NumpyDocstring
from sphinx.util.nodes import make_refnode

import diagfim

sys.path.insert(0, str(Path(__file__).parent))  # for the directive `drawn`

project = "diagfim"
author = "The diagfim developers"
copyright = "The diagfim developers, MIT licence"
version = release = diagfim.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for its role `autolink`; it generates no pages here
    "sphinx.ext.mathjax",
    "drawn",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A name between single backticks in a docstring is a link where it names an object.
default_role = "autolink"
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

# The types in the docstrings are prose, "tensor, (n, ...)", and not names to be looked up.
_NUMPY = Config(
    napoleon_use_param=False,
    napoleon_use_rtype=False,
    napoleon_custom_sections=[("Attributes", "params_style")],
)

nitpicky = True
nitpick_ignore_regex = [
    # Other projects' names in signatures: links would take their inventories off the network.
    (r"py:.*", r"(matplotlib|numpy|pandas|torch|xarray)\..*"),
    (r"py:.*", r"(argparse|collections|fractions|os|pathlib)\..*"),
    # What a signature may name without being for use: private classes and type variables.
    (r"py:.*", r"diagfim\.(\w+\.)*(_\w+|ArrayLike|State)"),
]
smartquotes_action = "D"  # dashes only: the docstrings quote code

html_theme = "furo"
html_title = f"diagfim {release}"
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def read_docstring(
    app: Sphinx, what: str, name: str, of: object, options: dict[str, Any], lines: list[str]
) -> None:
    """NumPy sections to fields, as the extension does, which reads those of attributes amiss.

    It takes what stands before a colon in one for its type, as in "η = E[t(y)]: (n, T)".
    """
    if what not in ("attribute", "data", "property"):
        lines[:] = NumpyDocstring(lines, _NUMPY, app, what, name, of, options).lines()


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """A name of the package that another module imports, or ``diagfim`` itself: one page has it."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    known = env.domains.python_domain.objects
    found = [full for full in known if full.endswith(f".{target}")]
    before, _, name = target.rpartition(".")
    public = f"diagfim.{name}"
    if public in known and before.partition(".")[0] in ("", "diagfim"):
        full = public
    elif len(found) == 1:
        full = found[0]
    else:
        return None
    place = known[full]
    return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, text, full)


def leave_out_tables(app: Sphinx, page: nodes.document) -> None:
    """Values of constants that take more than a line: tables of classes or texts are no reading."""
    for signature in page.findall(desc_signature):
        for part in list(signature.findall(desc_annotation)):
            if part.astext().lstrip().startswith("=") and len(part.astext()) > 80:
                part.parent.remove(part)


def setup(app: Sphinx) -> None:
    """Connect what stands above."""
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", leave_out_tables)
