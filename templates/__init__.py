"""Jinja2 templates and the few static files of the pages; a package, so that an installation finds them."""
