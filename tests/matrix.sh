#!/bin/sh
# Every way to build olla, so that none of them rots: warnings are errors in all. Prints what each takes.
#
#   tests/matrix.sh [NAME ...]         the names are the rows below; all of them by itself
set -eu
cd "$(dirname "$0")/.."

out=build/matrix
python=${PYTHON:-/usr/bin/python3}
jobs=$(nproc 2>/dev/null || echo 2)
wanted=" $* "
# What olla.h allows and a proxy for three endpoints needs.
smallest="-DOLLA_MAX_CLIENTS=2 -DOLLA_MAX_UPSTREAMS=2 -DOLLA_MAX_TLS_CLIENTS=1 -DOLLA_MAX_TLS_UPSTREAMS=1 -DOLLA_MAX_TRUSTS=1
    -DOLLA_MAX_BUFS=4 -DOLLA_BUF_SIZE=4096 -DOLLA_HEAD_RESERVE=1024 -DOLLA_PARKED_HEAD=64 -DOLLA_MAX_HEADERS=32
    -DOLLA_BODY_BLOCK=4096 -DOLLA_MAX_BODY_BLOCKS=1 -DOLLA_MAX_MESSAGES=1 -DOLLA_MAX_ENDPOINTS=4 -DOLLA_MAX_ADDRS=1
    -DOLLA_MAX_MODELS=16 -DOLLA_MODEL_NAME=32 -DOLLA_MAX_PROBES=1 -DOLLA_MAX_TOKENS=64 -DOLLA_CONF_TEXT=4096
    -DOLLA_MAX_ENDPOINT_HEADERS=128 -DOLLA_MAX_ALIASES=1 -DOLLA_MAX_PROFILES=2 -DOLLA_MAX_KEYS=1 -DOLLA_KEY_NAME=2
    -DOLLA_MAX_SESSIONS=1 -DOLLA_MAX_RATE_CLIENTS=1 -DOLLA_MAX_LIST_ITEMS=8 -DOLLA_LOG_BUF=8192"
smallest=$(echo "$smallest" | tr -s '\n ' ' ')

mkdir -p "$out"
printf '[server]\nport = 1\n' >"$out/one.ini"

fail() {
    echo "matrix: $*" >&2
    exit 1
}

# skip NAME: it was not asked for
skip() {
    [ "$wanted" != "  " ] && [ "${wanted#* "$1" }" = "$wanted" ]
}

# make_it NAME GOAL ARGUMENTS OF MAKE...
make_it() {
    name=$1
    goal=$2
    shift 2
    make --no-print-directory -j"$jobs" BUILD="$out/$name" "$@" "$goal" >"$out/$name.log" 2>&1 || {
        grep -E -A 6 'warning:|error:|undefined|Error|\*\*\*' "$out/$name.log" | head -n 40 >&2
        fail "$name cannot be built"
    }
}

# row NAME ARGUMENTS OF MAKE...: the program must run, and have nothing to say about a configuration that says nothing.
row() {
    ! skip "$1" || return 0
    row=$1
    shift
    make_it "$row" all "$@"
    olla=$out/$row/olla
    said=$("$olla" -t -c "$out/one.ini" 2>&1) || fail "$row: $said"
    [ "$said" = "olla: configuration $out/one.ini is valid" ] || fail "$row: $said"
    cp "$olla" "$out/stripped" && strip "$out/stripped"
    # shellcheck disable=SC2046  # words
    set -- $(size "$olla" | awk 'NR == 2 { print $1, $2, $3 }') "$(wc -c <"$out/stripped")" \
        "$("$olla" -m -c "$out/one.ini" | awk '/^total/ { print $2 }')"
    printf '%-12s text %7d  data %6d  bss %9d  stripped %7d  memory plan %9d\n' "$row" "$@"
    case $row in
    gcc) [ "$5" -lt 8000000 ] || fail "the pools take more than 8 MB" ;;
    tiny) [ $(($1 + $2 + $3)) -lt 1000000 ] || fail "program and pools of PRESET=tiny take more than 1 MB" ;;
    esac
    told "$row" "$4" "$5" $(($1 + $2 + $3))
}

# told NAME STRIPPED PLAN ALL: the table of README.md says so, within what compilers differ in
told() {
    case $1 in
    gcc) command="make" ;;
    gcc-small) command="make CFLAGS=-Os" ;;
    none) command="make TLS=none" ;;
    none-small) command="make CFLAGS=-Os TLS=none" ;;
    tiny) command="make PRESET=tiny" ;;
    tiny-none) command="make PRESET=tiny TLS=none" ;;
    *) return 0 ;;
    esac
    [ "$(uname -m)" = x86_64 ] || return 0
    # shellcheck disable=SC2016  # the $ are of awk
    awk -F '|' -v command=" \`$command\` " -v figures="$2 $3 $4" '
        $2 == command {
            split(figures, is, " ")
            for (i = 1; i <= 3; i++) {
                gsub(/,/, "", $(i + 2))
                said = $(i + 2) * 1000
                if (said < is[i] * 0.95 || said > is[i] * 1.05) {
                    print command, "has", is[i], "bytes where README.md says", said
                    exit
                }
            }
            found = 1
            exit
        }
        END { exit !found }' README.md >&2 || fail "the table of sizes in README.md is not that of $1"
}

# session NAME PYTEST-ARGUMENTS...: streams through that program, if nothing was asked for by name
session() {
    [ "$wanted" = "  " ] || return 0
    name=$1
    shift
    OLLA_BIN=$PWD/$out/$name/olla "$python" -m pytest -q -p no:cacheprovider tests/wire/test_streaming.py "$@" >"$out/$name.log" 2>&1 || {
        tail -n 40 "$out/$name.log" >&2
        fail "$name: sessions"
    }
    echo "$name: sessions: $(tail -n 1 "$out/$name.log")"
}

row gcc CC=gcc CFLAGS="-O2 -Werror"
row gcc-small CC=gcc CFLAGS="-Os -Werror"
row clang CC=clang CFLAGS="-O2 -Werror"
row none CC=gcc CFLAGS="-O2 -Werror" TLS=none
row none-small CC=gcc CFLAGS="-Os -Werror" TLS=none
row tiny CC=gcc CFLAGS="-Os -Werror" PRESET=tiny
row tiny-none CC=gcc CFLAGS="-Os -Werror" PRESET=tiny TLS=none
row clang-none CC=clang CFLAGS="-O1 -Werror" TLS=none RESOLVER=sync
row sync CC=gcc CFLAGS="-O1 -Werror" RESOLVER=sync
row smallest CC=gcc CFLAGS="-Os -Werror" CPPFLAGS="$smallest"
row smallest-none CC=clang CFLAGS="-O2 -Werror" CPPFLAGS="$smallest" TLS=none RESOLVER=sync
row static CC=gcc CFLAGS="-O2 -Werror" LDFLAGS=-static
session none -k "pieces or single or upload"
session sync -k "pieces or single or upload"
session tiny -k "not many" # sixteen clients at a time are all it has
session smallest -k "not many" # two clients at a time are all it has
session static -k "pieces or single or upload"

# Another libc, with its own idea of the system's headers. Of the libraries only headers are needed: nothing is linked.
if ! skip musl; then
    mkdir -p "$out/include"
    cp /usr/include/ini.h /usr/include/jsmn.h "$out/include/"
    make_it musl objects CC=musl-gcc CFLAGS="-Os -Werror" CPPFLAGS="-I$PWD/$out/include" TLS=none
    make_it musl-sync objects CC=musl-gcc CFLAGS="-Os -Werror" CPPFLAGS="-I$PWD/$out/include" TLS=none RESOLVER=sync
    echo "musl: every file compiles"
fi

# A limit that cannot work is refused with a sentence that says what can, on either side.
if ! skip limits; then
    count=0
    sed -n 's/^#error "\(OLLA_[A-Z_]*\): set it to \([0-9]*\)\.\.\([0-9]*\).*/\1 \2 \3/p' olla.h >"$out/limits"
    while read -r name low high; do
        for value in $((low - 1)) $((high + 1)); do
            if cc -E "-D$name=$value" olla.h >/dev/null 2>"$out/said"; then
                fail "olla.h takes $name=$value"
            fi
            grep -q "error.*$name: set it to $low" "$out/said" || fail "$name=$value: $(cat "$out/said")"
        done
        count=$((count + 1))
    done <"$out/limits"
    [ "$count" -ge 20 ] || fail "only $count limits of olla.h have a range"
    # Every limit has one, but for those that are about bytes on disk.
    sed -n 's/^#define \(OLLA_[A-Z_]*\) .*/\1/p' olla.h >"$out/limits"
    while read -r name; do
        case $name in
        OLLA_H | OLLA_VERSION | OLLA_MAX_HEAD | OLLA_MAX_LIST | OLLA_MAX_KEPT | OLLA_COUNT) ;;
        *) grep -qE "^#if .*\b$name\b" olla.h || fail "olla.h: $name has no range" ;;
        esac
    done <"$out/limits"
    for option in TLS=openssl RESOLVER=thread PRESET=huge; do
        if make -n BUILD="$out/none" $option all >/dev/null 2>"$out/said"; then
            fail "make takes $option"
        fi
        grep -q "${option%=*}=" "$out/said" || fail "$option: $(cat "$out/said")"
    done
    # A limit of one's own counts more than the preset's.
    make -n BUILD="$out/none" PRESET=tiny CPPFLAGS=-DOLLA_MAX_CLIENTS=20 "$out/none/olla" >"$out/said"
    if grep -q 'DOLLA_MAX_CLIENTS=16' "$out/said" || ! grep -q 'DOLLA_MAX_UPSTREAMS=24.*DOLLA_MAX_CLIENTS=20' "$out/said"; then
        fail "PRESET=tiny and a limit of one's own"
    fi
    echo "limits: $count are refused when they cannot work"
fi
echo "matrix: fine"
