"""`RECIPE.lock`: what a recipe was resolved to, so that the next build, and the next team's, is
made of the same: commits, files, contents, included recipes, keys and outputs.

    model.py     the values         text.py   the file, read and written
    make.py      from a plan        drift.py  what differs between two
    contents.py  SHA-256 of a node  hold.py   builds, held to a lock
    beside.py    whether there is one

Nothing is imported here: where there is no lock, there is no use for most of it.
"""
