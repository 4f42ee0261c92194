#!/bin/sh
# `make test-real`: prepares what is missing, then runs the tests; arguments go to pytest.
#   OLLA_BIN       the program to test (build/olla)
#   OLLA_REAL_DIR  where the prepared parts are (build/real)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
OLLA_REAL_DIR=${OLLA_REAL_DIR:-$top/build/real}
export OLLA_REAL_DIR
"$here/prepare.sh"
cd "$top"
exec timeout --foreground -k 90 900 "$OLLA_REAL_DIR/venv/bin/python" -B -m pytest -p no:cacheprovider "$here" "$@"
