#!/bin/sh
# What `make run` does after the build: tests/run.sh PATH_TO_OLLA
# Runs olla in front of the inference servers found on this machine or, where none answers, of two scripted samples.
# tests/samples/run.py does the work; without Python only the first half is possible, with olla.ini as it is.
set -eu

[ $# -eq 1 ] || { echo "usage: tests/run.sh PATH_TO_OLLA" >&2; exit 2; }
top=$(cd "$(dirname "$0")/.." && pwd)
case $1 in
/*) olla=$1 ;;
*) olla=$(pwd)/$1 ;;
esac
[ -x "$olla" ] || { echo "run: there is no program $olla; build it first with: make" >&2; exit 1; }
cd "$top"
for python in /usr/bin/python3 python3; do
    if command -v "$python" >/dev/null 2>&1; then
        exec "$python" tests/samples/run.py "$olla"
    fi
done
echo "run: no python3 here, so no look for servers and no samples: olla runs with olla.ini"
exec "$olla" -c olla.ini
