"""Settings of Sphinx for the site. `nox -s docs` builds it, without network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))

project = "pikaforge"
author = "The pikaforge authors"
copyright = author
extensions = ["myst_parser", "made_here"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_*", "locale", "pictures"]
templates_path = ["_templates"]
language = "en"
locale_dirs = ["locale"]
gettext_compact = False
gettext_location = False
nitpicky = True
smartquotes = False  # it would make one dash of the two of an option

myst_heading_anchors = 4
myst_linkify_fuzzy_links = False

html_theme = "furo"
html_title = "pikaforge"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "languages.html",
        "sidebar/scroll-end.html",
    ]
}
html_context = {"languages": {"en": "English", "zh_CN": "简体中文"}}

linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
linkcheck_ignore = [r"https?://([a-z0-9-]+\.)*example\.(org|com)(/.*)?", r"https?://127\.0\.0\.1.*"]
