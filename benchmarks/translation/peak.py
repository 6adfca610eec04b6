"""The command line, and the most memory it held: ``python -m benchmarks.translation.peak WORD...``.

The last line of standard output is that peak in bytes. It is read from inside: to the system, a
process begins with the peak of the one that started it.
"""

from __future__ import annotations

from benchmarks.layers.child import status
from unrolled.cli.main import main

if __name__ == "__main__":
    try:
        main()
    finally:
        print(status("VmHWM"))
