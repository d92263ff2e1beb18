#!/bin/bash
# bench/run.sh: all figures, as `make bench` prints them.  See bench/README.md.
set -eu
cd "$(dirname "$0")/.."
exec python3 bench/run.py "$@"
