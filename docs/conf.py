"""How Sphinx makes the pages into a site: `make docs`.

The source folder is the root of the checkout. So the model card, the notebooks and
CONTRIBUTING.md are pages where they are, and a relative link works on the site as it
does in the checkout. The site loads nothing from other hosts: it has the fonts of the
system, and formulas are MathML, which docutils makes.
"""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parents[1]
# What autodoc imports computes nothing.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "mt3"
project_copyright = "the authors of mt3-transcription, Apache-2.0"
release = runpy.run_path(str(ROOT / "mt3" / "version.py"))["__version__"]

extensions = [
    "myst_nb",  # With myst_parser.
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
root_doc = "README"
PAGES = {
    "Use": """
        docs/install
        docs/transcribe
        docs/beats
        docs/sheet-music
        docs/serve
        docs/released-checkpoints
        docs/python
        docs/notebooks
        colab/music_transcription_with_transformers
        colab/mt3_reconvat_baseline
        docs/gpu
        docs/features
        docs/reliability
        SECURITY
        docs/licences
    """,
    "Train and evaluate": """
        docs/scoring
        docs/training
        docs/fine-tuning
        docs/data
        docs/monophonic
        docs/caching
        docs/t5x
        docs/bundle
    """,
    "How it works": """
        docs/how-it-works
        docs/faithful
        mt3/beyond/README
        mt3/pretrained/rendered-medium
        docs/recipe
        docs/corpus
        benchmarks/README
        examples/README
    """,
    "Reference": """
        docs/api
        CONTRIBUTING
        CHANGELOG
    """,
}
include_patterns = [
    "*.md",
    "benchmarks/README.md",
    "colab/*.ipynb",
    "docs/*.md",
    "docs/*.rst",
    "docs/api/*.rst",
    "examples/README.md",
    "mt3/**/*.md",
]
exclude_patterns = [".*", "build", "dist", "mt3/examples", "out", "tests"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# Notebooks are committed without outputs; `make test` runs them.
nb_execution_mode = "off"
suppress_warnings = [
    "misc.highlighting_failure",  # Languages of our own; a test knows all of them.
    "myst.header",
    "ref.python",  # Attributes of one name in two classes.
]

autosummary_generate = True
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
}
autodoc_mock_imports = [
    "clu",
    "etils",
    "mirdata",
    "note_seq",
    "orbax",
    "seqio",
    "t5x",
    "tensorflow",
]
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_ivar = True
default_role = "py:obj"

# The first page is README.html; index.html leads there.
html_extra_path = ["index.html"]
html_theme = "furo"
html_title = f"mt3 {release}"
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
highlight_language = "none"


def _formula(translator, node) -> None:
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def _append_contents(app, docname: str, source: list[str]) -> None:
    """Lists the pages at the end of the first one, which GitHub shows as well."""
    if docname == root_doc:
        for caption, names in PAGES.items():
            listed = "\n".join(names.split())
            source[0] += (
                f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n{listed}\n```\n"
            )


def _append_public_names(app, docname: str, source: list[str]) -> None:
    """Adds names of magenta/mt3 that automodule leaves out: constants, imports."""
    listed = (ROOT / "tests/support/public_names.txt").read_text(encoding="utf-8")
    for part in listed.split("\nmodule ")[1:]:
        module, *lines = part.splitlines()
        if docname != f"docs/api/mt3.{module}":
            continue
        code = (ROOT / "mt3" / f"{module}.py").read_text(encoding="utf-8")
        for kind, name in re.findall(r"^(def|class|name) (\w+)", part, re.MULTILINE):
            defined = re.search(rf"^(def|class) {name}\b", code, re.MULTILINE)
            if not defined and not name.startswith("_"):
                directive = {"def": "function", "name": "data"}.get(kind, kind)
                source[0] += f"\n.. py:{directive}:: mt3.{module}.{name}\n"


def _as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Shows blocks after a colon as they are, and plurals such as `Note`s."""
    text = re.sub(r"(?<!:):\n\n(?= {4})", "::\n\n", "\n".join(lines))
    if what == "module":
        text = re.sub(r"(?m)^(\S.*[^:]):\n(?=  \S)", r"\1::\n\n", text)
    lines[:] = re.sub(r"(?<=\w)`s\b", r"`\\ s", text).split("\n")


def setup(app) -> None:
    """Adds the renderer of formulas, the contents, and the form of docstrings."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("source-read", _append_contents)
    app.connect("source-read", _append_public_names)
    # Before napoleon.
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=400)
