"""The generated half of the documents: every page that code can write about itself, and the site's configuration.

`make docs` writes the pages into docs/reference and docs/project, beside the hand-written ones, and builds the site.
They are not in git: a page that is written from the code at each build cannot differ from it. For developers alone: it
is in no wheel.
"""
