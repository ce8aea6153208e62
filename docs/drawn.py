"""The directive ``drawn``: the figure that the Python blocks of a page have drawn so far.

What a page shows is run at the build, so that no picture is older than the code above it::

    ```{drawn}
    :alt: What there is to see
    A caption.
    ```

With an argument it is the figure of a script instead, ``{drawn} pictures/layers.py``, whose path
starts at the folder of the sources.
"""

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import matplotlib
from blocks import Block, blocks_of
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Drawn(SphinxDirective):
    """Run the code above and show its last figure."""

    optional_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """The figure, which Sphinx copies beside the pages."""
        folder = Path(self.env.doctreedir) / "drawn"
        folder.mkdir(parents=True, exist_ok=True)
        name = self.env.docname.replace("/", "-")
        path = folder / f"{name}-{self.env.new_serialno('drawn')}.svg"
        self._draw(path)
        relative = os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)
        image = nodes.image(uri=relative, alt=self.options["alt"])
        figure = nodes.figure("", image)
        if self.content:
            caption = nodes.caption()
            self.state.nested_parse(self.content, self.content_offset, caption)
            # One paragraph: its text, and not a paragraph in a caption.
            caption.children = caption.children[0].children
            figure += caption
        self.set_source_info(figure)
        return [figure]

    def _draw(self, path: Path) -> None:
        matplotlib.use("Agg")
        from matplotlib import pyplot

        # Nothing random, and nothing that says when: the same code, the same file.
        with matplotlib.rc_context({"svg.hashsalt": "diagfim"}):
            pyplot.close("all")
            self._run()
            pyplot.savefig(path, metadata={"Date": None}, bbox_inches="tight")
            pyplot.close("all")

    def _run(self) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            if self.arguments:
                script = Path(self.env.srcdir) / self.arguments[0]
                self.env.note_dependency(str(script))
                with contextlib.chdir(folder):
                    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), {})
                return
            page = Path(self.env.doc2path(self.env.docname))
            blocks = blocks_of(page.read_text(encoding="utf-8"))
            # What an earlier picture of the page has run is not run again.
            start, namespace = self.env.temp_data.setdefault("drawn", (0, {}))
            here = self.get_source_info()[1]
            with contextlib.chdir(folder):
                for block in blocks:
                    if start < block.line < here:
                        exec(_compiled(block, page), namespace)
            self.env.temp_data["drawn"] = here, namespace


def _compiled(block: Block, page: Path) -> Any:
    return compile("\n" * block.line + block.code, page, "exec")


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": True}
