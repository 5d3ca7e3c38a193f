"""The site: `make docs` builds it, strictly and without a network, into docs/_build/html."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent / "src")]

import forcelaw  # noqa: E402

project = "forcelaw"
author = "the forcelaw developers"
copyright = author
version = release = forcelaw.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "from_code"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]

html_theme = "furo"
html_title = f"forcelaw {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
default_role = "code"
smartquotes = False  # --option is not an en dash
nitpicky = True
# Types of other packages, and of modules that the site does not describe.
nitpick_ignore_regex = [("py:.*", r"(?!forcelaw\.[a-z_]+$).*")]
