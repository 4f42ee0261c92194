#!/bin/sh
# tests/fuzz/run.sh DIRECTORY SECONDS TARGET: one target of make fuzz. What it learns stays in DIRECTORY/corpus.
# With FUZZ_SEED it goes the same way each time, from the same beginning.
set -eu

dir=$1 seconds=$2 target=$3
log=$dir/$target.log

words=tests/fuzz/$target.dict
[ -f "$words" ] || words=tests/fuzz/words.dict

mkdir -p "$dir/corpus/$target"
if "$dir/$target" -max_total_time="$seconds" -max_len=4096 -timeout=20 -print_final_stats=1 -seed="${FUZZ_SEED:-0}" \
    -dict="$words" -artifact_prefix="$dir/$target-" \
    "$dir/corpus/$target" "tests/fuzz/corpus/$target" > "$log" 2>&1; then
    echo "== fuzz $target, $seconds s: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
else
    echo "== fuzz $target: FAILED"
    tail -n 40 "$log"
    exit 1
fi
