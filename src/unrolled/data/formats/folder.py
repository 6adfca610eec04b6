"""A folder of texts: one row a file, and its folder's name for a label (``data.folders``)."""

from __future__ import annotations

from unrolled.data.formats.base import RowFormat


class FolderFormat(RowFormat):
    kind = "folder"
    title = "folder of texts"
    encoded = False  # the files may differ in theirs
    bounded = False
