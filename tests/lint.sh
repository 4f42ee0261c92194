#!/bin/sh
# Static checkers over the product. Each finding is an error; what is switched off is named here with its reason.
set -eu
cd "$(dirname "$0")/.."

# clang-tidy: bugs and the analyser. Off: insecureAPI (asks for Annex K, which no libc here has);
# easily-swappable-parameters, narrowing, widening (-Wconversion has the real cases); sizeof of a
# pointer, which an array of pointers needs; branch-clone and assignment-in-if (tables of ifs);
# padding (fields stand in the order of their meaning; what there are many of is packed by hand).
CHECKS='-*,bugprone-*,clang-analyzer-*,cert-err34-c,misc-redundant-expression'
CHECKS="$CHECKS,-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions,-bugprone-reserved-identifier"
CHECKS="$CHECKS,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling,-bugprone-macro-parentheses"
CHECKS="$CHECKS,-bugprone-implicit-widening-of-multiplication-result,-bugprone-sizeof-expression"
CHECKS="$CHECKS,-clang-analyzer-optin.performance.Padding"
CHECKS="$CHECKS,-bugprone-branch-clone,-bugprone-assignment-in-if-condition,-bugprone-not-null-terminated-result"

echo "== clang-tidy"
clang-tidy --quiet --warnings-as-errors='*' --checks="$CHECKS" olla.c src/*.c platform/*.c -- \
    -std=c99 -D_POSIX_C_SOURCE=200809L 2>/dev/null

echo "== cppcheck"
cppcheck --quiet --error-exitcode=1 --std=c99 --enable=warning,portability,performance --inline-suppr \
    --suppress=missingIncludeSystem --suppress=uninitvar --suppress=normalCheckLevelMaxBranches -D_POSIX_C_SOURCE=200809L -j2 olla.c src platform

echo "== format"
clang-format --dry-run -Werror olla.c olla.h src/*.[ch] platform/*.[ch] tests/unit/*.[ch] tests/fake/*.[ch] tests/fuzz/*.[ch] tests/bench/*.c
# Where there is systemd; a wrong word in a unit is not an error for it, but it speaks of it. The program is not installed
# here: any other will do.
if command -v systemd-analyze >/dev/null 2>&1; then
    echo "== unit"
    unit=$(mktemp -d)
    trap 'rm -rf "$unit"' EXIT
    sed 's|/usr/sbin/olla|/bin/true|' package/systemd/olla.service >"$unit/olla.service"
    said=$(systemd-analyze verify "$unit/olla.service" 2>&1) || said="$said (failed)"
    if [ -n "$said" ]; then
        echo "$said" >&2
        exit 1
    fi
fi

# The two name each other, which mandoc believes only when they are installed.
echo "== manual"
said=$(mandoc -T lint docs/olla.8 docs/olla.ini.5 | grep -v 'referenced manual not found: Xr olla') || true
if [ -n "$said" ]; then
    echo "$said" >&2
    exit 1
fi
echo "lint: fine"
