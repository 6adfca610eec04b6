"""A data set of the hub: rows with typed columns (``data.hub``)."""

from __future__ import annotations

from unrolled.data.formats.jsonl import ObjectRows


class HubFormat(ObjectRows):
    kind = "hub"
    title = "data set of the hub"
    encoded = False
