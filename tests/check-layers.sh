#!/bin/sh
# Includes may only point downwards: each room has a level (docs/architecture.md), and system headers stay in their place.
set -eu
cd "$(dirname "$0")/.."

level() {
    case $1 in
    olla.h) echo 0 ;;
    str | pool | buf | bucket | tally | platform | tls) echo 1 ;;
    posix | socket | resolve | spawn | user | tls_* | log | multipart | sse | usage | pieces | failure | secrets | sha256 | cidr | http | http_* | json | json_* | traits) echo 2 ;;
    conf | conf_* | net) echo 3 ;;
    profile | ledger | endpoint | breaker | upstream | model | catalogue) echo 4 ;;
    route | meter | choose | sticky | gate | limits | cors) echo 5 ;;
    body | exchange | account | admit | request | attempt | forward | relay | reply | probe | detect | health | discover | gather | tunnel | queue | session | heartbeat | load | messages | messages_* | store | inspector | anthropic | anthropic_* | wake | sleep | hooks | state_file) echo 6 ;;
    admin | dashboard | stats | status | metrics | listing | formats | model_status | client | presence) echo 7 ;;
    loop) echo 8 ;;
    olla) echo 9 ;;
    *) echo "unknown" ;;
    esac
}

list=$(mktemp)
trap 'rm -f "$list"' EXIT
bad=0
complain() {
    echo "layers: $1" >&2
    bad=1
}

for file in olla.c olla.h src/*.[ch] platform/*.[ch]; do
    name=$(basename "$file" | sed 's/\.[ch]$//')
    [ "$file" = olla.h ] && name=olla.h
    mine=$(level "$name")
    [ "$mine" = unknown ] && complain "$file has no level: add it to tests/check-layers.sh and docs/architecture.md"
    sed -n 's/^ *# *include *"\(.*\)"/\1/p' "$file" > "$list"
    while read -r inc; do
        other=$(basename "$inc" .h)
        [ "$other" = olla ] && continue
        theirs=$(level "$other")
        if [ "$theirs" = unknown ] || [ "$theirs" -gt "$mine" ]; then
            complain "$file (level $mine) includes $inc (level $theirs)"
        fi
    done < "$list"
    sed -n 's/^ *# *include *<\(.*\)>/\1/p' "$file" > "$list"
    while read -r inc; do
        case $file:$inc in
        *:assert.h | *:stdbool.h | *:stddef.h | *:stdint.h | *:string.h | *:limits.h) ;;
        platform/*) ;;
        src/pool.c:sanitizer/*) ;;
        src/json.c:jsmn.h) ;;
        src/conf*.c:errno.h | src/conf*.c:ini.h | src/conf*.c:stdio.h | src/conf*.c:stdlib.h) ;;
        olla.c:stdio.h) ;;
        *) complain "$file includes <$inc>, which does not belong there" ;;
        esac
    done < "$list"
done

# Our own code allocates nothing.
if grep -nE '\b(malloc|calloc|realloc|free|strdup|alloca|sprintf|strcpy|strcat|strtok|gets|atoi|strncpy|gmtime|localtime)\(' \
    olla.c olla.h src/*.[ch] platform/*.[ch] | grep -vE '^[^:]*:[0-9]*: *(/?\*|//)'; then
    complain "banned calls above"
fi
[ "$bad" = 0 ] && echo "layers: fine"
exit "$bad"
