"""What pip calls: scikit-build-core, but an editable install is a plain path.

Its own editable installs put a finder in front of ``sys.path``. A second copy of the sources tried
with PYTHONPATH would then silently run the first copy's code.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

from scikit_build_core import build as backend
from scikit_build_core.build import *  # noqa: F403 - every hook that it offers

Settings = dict[str, list[str] | str]


def build_editable(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Write the wheel of an editable install (PEP 660) and return its name."""
    name = backend.build_editable(wheel_directory, config_settings, metadata_directory)
    _drop_finder(Path(wheel_directory, name))
    return name


def _drop_finder(wheel: Path) -> None:
    """Rewrite a wheel: of the files beside the packages keep only the .pth, and its paths alone."""
    with zipfile.ZipFile(wheel) as old:
        files = {info.filename: old.read(info) for info in old.infolist()}
    for name in [name for name in files if "/" not in name]:
        text = files.pop(name).decode("utf-8-sig")
        if name.endswith(".pth"):
            paths = [
                line for line in text.splitlines() if not line.startswith("import ")
            ]
            files[name] = "".join(f"{path}\n" for path in paths).encode()
    record = next(name for name in files if name.endswith(".dist-info/RECORD"))
    del files[record]
    files[record] = "".join(
        [*map(_record, files, files.values()), f"{record},,\n"]
    ).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in files.items():
            new.writestr(name, content)


def _record(name: str, content: bytes) -> str:
    """Return a file's line of RECORD."""
    digest = (
        base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    )
    return f"{name},sha256={digest},{len(content)}\n"
