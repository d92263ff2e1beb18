#!/usr/bin/python3
"""Two brokers on one directory, and one failover of each kind that a
directory of this machine allows in a short time: the leader is ended in an
orderly way, killed, and stopped for longer than a takeover takes.

tests/lab/failover.py does it, and says what must hold; `make lab` does it
hundreds of times, on NFS as well."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lab"))
import failover  # noqa: E402

if __name__ == "__main__":
    sys.argv[1:] = ["--faults", "kill,term,pause", "--rounds", "3", "--rate",
                    "500", "--quiet"]
    failover.main()
