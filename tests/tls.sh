#!/bin/sh
# The other version of mbedTLS: Debian 12 has 2.28, Debian 13 has 3.6 (with TLS 1.3). Builds olla there and runs the unit
# tests and those of TLS, with sanitizers. The Debian lies below build/chroot and is used again.
set -eu

# shellcheck source=tests/chroot.sh
. "$(dirname "$0")/chroot.sh"
become_root "$@"

have tls trixie "apt-get -q update
    apt-get -q -y install --no-install-recommends make gcc libc6-dev libjsmn-dev libinih-dev libmbedtls-dev libcmocka-dev \
        python3 python3-pytest openssl curl ca-certificates procps"
root=$chroots/tls
mkdir -p "$root/olla"
find "$root/olla" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
tar -C "$top" --exclude=./build --exclude=./.git --exclude=__pycache__ -cf - . | tar -C "$root/olla" -xf -

# shellcheck disable=SC2016  # for the shell inside
inside tls 'set -e; cd /olla; make -j"$(nproc)" CFLAGS="-O2 -g -Werror" build/olla build/test/olla && build/olla -V' >"$chroots/log" 2>&1 || {
    grep -E -A 8 'warning:|error:|Error' "$chroots/log" >&2 || tail -n 20 "$chroots/log" >&2
    exit 1
}
version=$(tail -n 1 "$chroots/log")
say "$version, where this machine has $(sed -n 's/.*MBEDTLS_VERSION_STRING  *"\(.*\)"/\1/p' /usr/include/mbedtls/version.h /usr/include/mbedtls/build_info.h 2>/dev/null | head -n 1)"
inside tls 'cd /olla && make -s unit' >"$chroots/log" 2>&1 || {
    grep -E '^==|FAILED|ERROR|LINE|Error' "$chroots/log" | tail -n 20 >&2
    exit 1
}
say "$(grep -c '^\[       OK' "$chroots/log") unit tests passed"
# shellcheck disable=SC2016
inside tls 'cd /olla && OLLA_BIN=/olla/build/test/olla python3 -m pytest -q -p no:cacheprovider tests/wire/test_tls*.py tests/wire/test_streaming.py'
