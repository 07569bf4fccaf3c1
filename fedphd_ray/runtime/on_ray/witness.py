"""Words for a driver that could not say any: `python witness.py MESSAGE FILE OTHERWISE DIRECTORY`, beside it and in its place.

Ray ends a driver from within (`_exit`, without a word) when its object store goes away under a call; the system kills one that
takes too much memory. Nothing in the process hears of that, so a process of its own does. It imports nothing but the standard
library: it starts in a few hundredths of a second and holds a few MiB.
"""

import contextlib
import os
import shutil
import sys
import time

ENDED = "error: this process was killed, or a server of Ray's own has died under it"
FAREWELL = b"."
CLEAN_UP_SECONDS = 5.0


def main(hint: str, file: str, otherwise: str, directory: str) -> None:
    """Waits until the driver says farewell, and is silent; or until it has ended without.

    Args:
        hint: how to go on, where `file` exists or none is named.
        file: see `hint`.
        otherwise: said in the place of `hint`.
        directory: of the session, removed; empty for none.
    """
    if os.read(0, 1) == FAREWELL:
        return
    words = hint if not file or os.path.exists(file) else otherwise  # noqa: PTH110 - pathlib alone takes as long as everything else
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"\n{ENDED}{'; ' * bool(words)}{words}\n".encode("ascii", "backslashreplace"))
    os.close(2)  # whoever reads what the driver said has read it all
    until = time.monotonic() + CLEAN_UP_SECONDS
    while directory and os.path.exists(directory) and time.monotonic() < until:  # noqa: PTH110
        shutil.rmtree(directory, ignore_errors=True)  # servers may still be dying in it
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
