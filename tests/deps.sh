#!/bin/sh
# Installs what a target of the Makefile needs and this machine lacks.
#
#   tests/deps.sh build|test|real|browser|bench|fuzz|lint|matrix|packages|deb|chroot ...
#
# Looks for the command, header or module itself, so a machine that has everything is left alone at once, without the
# network, whatever its distribution. What is missing comes from the system's packages on Debian and its relatives, as
# root or through sudo; elsewhere the package names are printed and the exit status is 1.
set -eu

usage="usage: tests/deps.sh build|test|real|browser|bench|fuzz|lint|matrix|packages|deb|chroot ..."
attempts=3
missing=""
services=""

say() {
    echo "deps: $*"
}

die() {
    echo "deps: $*" >&2
    exit 1
}

have_command() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1
}

# The libraries that its -fsanitize=fuzzer links; clang's package only recommends them.
have_fuzzer() {
    echo 'int LLVMFuzzerTestOneInput(void); int LLVMFuzzerTestOneInput(void) { return 0; }' |
        "$1" -fsanitize=fuzzer,address -x c - -o /dev/null 2>/dev/null
}

have_header() {
    for folder in /usr/include /usr/local/include; do
        [ -f "$folder/$1" ] && return 0
    done
    return 1
}

# Modules are wanted in the system's Python, which is the one the tests run under.
have_module() {
    [ -x /usr/bin/python3 ] || return 1
    /usr/bin/python3 -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)" 2>/dev/null
}

# need PACKAGE KIND NAME: one line per thing
need() {
    "have_$2" "$3" || missing="$missing $1"
}

need_build() {
    need gcc command gcc
    need make command make
    need libc6-dev header stdio.h
    need libinih-dev header ini.h
    need libjsmn-dev header jsmn.h
    need libmbedtls-dev header mbedtls/ssl.h
}

need_test() {
    need libcmocka-dev header cmocka.h
    need python3 command /usr/bin/python3
    need python3-pytest module pytest
    need python3-pytest-xdist module xdist
    need strace command strace
    need openssl command openssl
}

need_lint() {
    need clang command clang
    need clang-tidy command clang-tidy
    need clang-format command clang-format
    need cppcheck command cppcheck
    need shellcheck command shellcheck
    need mandoc command mandoc
}

need_matrix() {
    need clang command clang
    need musl-tools command musl-gcc
}

need_packages() {
    need shellcheck command shellcheck
}

need_deb() {
    need dpkg-dev command dpkg-shlibdeps
}

need_chroot() {
    need debootstrap command debootstrap
}

need_fuzz() {
    need clang command clang
    need libclang-rt-dev fuzzer clang
}

need_bench() {
    need python3 command /usr/bin/python3
    need wrk command wrk
    need openssl command openssl
    need valgrind command valgrind
    need strace command strace
    for server in nginx haproxy; do
        have_command "$server" || services="$services $server"
        need "$server" command "$server"
    done
}

need_browser() {
    need python3 command /usr/bin/python3
    need python3-pytest module pytest
    for name in chromium-browser google-chrome; do
        have_command "$name" && return 0
    done
    need chromium command chromium
}

need_real() {
    need debootstrap command debootstrap
    need nodejs command node
    need npm command npm
    need python3 command /usr/bin/python3
    need python3-venv module ensurepip
}

# How to become root: nothing to add, a sudo that asks nobody, or a sudo that may ask the person at the terminal.
find_root() {
    if [ "$(id -u)" -eq 0 ]; then
        root="env"
    elif ! command -v sudo >/dev/null 2>&1; then
        return 1
    elif sudo -n true 2>/dev/null; then
        root="sudo -n env"
    elif [ -t 0 ]; then
        root="sudo env"
    else
        return 1
    fi
}

# step NAME APT-GET-ARGUMENTS: runs it, keeps the output, remembers which step failed
step() {
    failed="$1"
    shift
    # shellcheck disable=SC2086  # $root is a few words
    timeout 1800 $root DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" \
        >"$output" 2>&1 </dev/null
}

install_missing() {
    attempt=1
    while :; do
        say "attempt $attempt of $attempts: apt-get update, then install$missing"
        # A source that does not answer need not matter: the lists at hand may do.
        if ! step "apt-get update" update; then
            say "apt-get update failed, going on with the lists at hand:"
            grep -E '^(E|W|Err):?' "$output" | sed 's/^/    /' || true
        fi
        # shellcheck disable=SC2086  # a list of package names
        if step "apt-get install" install --no-install-recommends $missing; then
            return 0
        fi
        if [ "$attempt" -ge "$attempts" ]; then
            say "$failed failed $attempts times; its last words were:" >&2
            tail -n 15 "$output" | sed 's/^/    /' >&2
            return 1
        fi
        attempt=$((attempt + 1))
        sleep "$((attempt * 3))"
    done
}

# Debian starts a packaged server as soon as it is installed; the benchmark wants the program only.
stop_services() {
    [ -n "$services" ] && [ -d /run/systemd/system ] || return 0
    for server in $services; do
        # shellcheck disable=SC2086
        if $root systemctl disable --now "$server" >/dev/null 2>&1; then
            say "the service $server that came with the package was stopped and disabled"
        fi
    done
}

[ $# -gt 0 ] || { echo "$usage" >&2; exit 2; }
for target in "$@"; do
    case $target in
    build | test | real | browser | bench | fuzz | lint | matrix | packages | deb | chroot) ;;
    *) echo "$usage" >&2; exit 2 ;;
    esac
done
need_build
for target in "$@"; do
    [ "$target" = build ] || "need_$target"
done

[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    die "missing here (Debian's package names):$missing"
fi
find_root || die "missing here:$missing
deps: neither root nor sudo can be had, so please run: apt-get install$missing"

output=$(mktemp)
trap 'rm -f "$output"' EXIT
trap 'exit 1' HUP INT TERM
install_missing
stop_services
say "installed$missing"
