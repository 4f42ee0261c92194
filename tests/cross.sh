#!/bin/sh
# olla for other machines: builds it with a cross compiler against Debian's libraries of that machine, then runs the unit
# tests and whole sessions through a proxy under qemu. For armhf the Debian package is installed and used, too (deb-armhf.sh).
#
#   tests/cross.sh [ARCH ...]          armhf arm64 mipsel s390x (byte order) riscv64; all of them by itself
#   MAKE_IN="deb tarball" tests/cross.sh ARCH ...     only makes these there, tries them, and brings them to build/
#
# The compilers live in small Debians below build/chroot, so that this machine gets no package of another one.
set -eu

# shellcheck source=tests/chroot.sh
. "$(dirname "$0")/chroot.sh"
[ $# -gt 0 ] || set -- armhf arm64 mipsel s390x riscv64
become_root "$@"

# Bodies, streams, lists, keys (digests), conversations (hashes), the translator, names and addresses.
sessions="tests/wire/test_streaming.py tests/wire/test_multipart.py tests/wire/test_listings.py tests/wire/test_keys.py
    tests/wire/test_messages_replies.py tests/wire/test_addresses.py tests/wire/test_reload.py"

# Handshakes and records, where those tests exist.
for file in tests/wire/test_tls_listener.py tests/wire/test_tls_backends.py; do
    [ ! -f "$top/$file" ] || sessions="$sessions $file"
done

describe() {
    release=bookworm
    case $1 in
    armhf) triplet=arm-linux-gnueabihf emulator=qemu-arm-static ;;
    arm64) triplet=aarch64-linux-gnu emulator=qemu-aarch64-static ;;
    mipsel) triplet=mipsel-linux-gnu emulator=qemu-mipsel-static ;;
    s390x) triplet=s390x-linux-gnu emulator=qemu-s390x-static ;;
    riscv64) triplet=riscv64-linux-gnu emulator=qemu-riscv64-static release=trixie ;; # Debian 12 does not have it
    *) echo "cross.sh: $1 is not known" >&2; exit 2 ;;
    esac
}

prepare() {
    have "cross-$1" "$release" "dpkg --add-architecture $1
        apt-get -q update
        apt-get -q -y install --no-install-recommends make dpkg-dev gcc libc6-dev gcc-$triplet libc6-dev:$1 libjsmn-dev \
            libmbedtls-dev:$1 libinih-dev:$1 libcmocka-dev:$1 qemu-user-static python3 python3-pytest openssl procps curl iproute2"
    root=$chroots/cross-$1
    if [ "$1" = mipsel ]; then
        # That of Debian 12 gives programs for MIPS the error numbers of another machine (SO_ERROR).
        have qemu trixie "apt-get -q update && apt-get -q -y install --no-install-recommends qemu-user"
        cp "$chroots/qemu/usr/bin/qemu-mipsel" "$root/usr/local/bin/$emulator"
    fi
    mkdir -p "$root/olla"
    find "$root/olla" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
    tar -C "$top" --exclude=./build --exclude=./.git --exclude=__pycache__ -cf - . | tar -C "$root/olla" -xf -
}

# Not quietly: what a compiler warns of is a fault.
build() {
    # shellcheck disable=SC2016  # for the shell inside
    inside "cross-$1" 'cd /olla && make -j"$(nproc)" CROSS="$1" CFLAGS="-O2 -g -Werror" all test-programs' "$triplet" >"$chroots/log" 2>&1 || {
        grep -E -A 8 'warning:|error:|Error' "$chroots/log" >&2 || tail -n 20 "$chroots/log" >&2
        exit 1
    }
    # shellcheck disable=SC2016
    say "$1: $(inside "cross-$1" 'cd "/olla/build/$1" && "$1-strip" -o stripped olla && wc -c <stripped' "$triplet") bytes, stripped"
}

run() {
    # shellcheck disable=SC2016
    inside "cross-$1" 'cd /olla && make -s RUN="$2" CROSS="$1" CFLAGS="-O2 -g -Werror" unit' "$triplet" "$emulator" >"$chroots/log" 2>&1 || {
        grep -E '^==|FAILED|ERROR|LINE|Error' "$chroots/log" | tail -n 20 >&2
        exit 1
    }
    say "$1: $(grep -c '  OK ' "$chroots/log") unit tests passed"
    # shellcheck disable=SC2016,SC2086  # a list of files
    inside "cross-$1" 'cd /olla && printf "#!/bin/sh\nexec %s %s \"\$@\"\n" "$2" "/olla/build/$1/test/olla" >build/emulated &&
        chmod +x build/emulated && shift 2 && OLLA_BIN=/olla/build/emulated exec /usr/bin/python3 -m pytest -q -p no:cacheprovider "$@"' \
        "$triplet" "$emulator" $sessions >"$chroots/log" 2>&1 || {
        tail -n 60 "$chroots/log" >&2
        exit 1
    }
    say "$1: sessions: $(tail -n 1 "$chroots/log")"
}

# The package as a new user meets it, for one of these machines.
package() {
    # shellcheck disable=SC2016
    inside "cross-$1" 'cd /olla && make -j"$(nproc)" CROSS="$1" deb && cd "build/$1" && rm -rf deb-newer && cp -a deb deb-newer &&
        rm -r deb-newer/DEBIAN && echo "; newer" >>deb-newer/etc/olla.ini &&
        REVISION=2 ../../package/debian/build.sh deb-newer "$1"' "$triplet" >"$chroots/log" 2>&1 || {
        tail -n 30 "$chroots/log" >&2
        exit 1
    }
    "$top/tests/deb-armhf.sh" "$root/olla/build/$triplet"/olla_*-1_armhf.deb "$root/olla/build/$triplet"/olla_*-2_armhf.deb
}

bring() {
    # shellcheck disable=SC2016
    inside "cross-$1" 'cd /olla/build/"$1" 2>/dev/null && rm -f *.deb *.tar.gz; cd /olla && make -j"$(nproc)" CROSS="$1" $2 &&
        cd "build/$1" && for file in static/usr/sbin/olla deb/usr/sbin/olla; do
            [ ! -f "$file" ] || "$3" "$file" -t -c /olla/olla.ini || exit 1
        done' "$triplet" "$MAKE_IN" "$emulator" >"$chroots/log" 2>&1 || {
        tail -n 30 "$chroots/log" >&2
        exit 1
    }
    for file in "$root/olla/build/$triplet"/*.deb "$root/olla/build/$triplet"/*.tar.gz; do
        [ ! -f "$file" ] || { cp "$file" "$top/build/" && say "build/$(basename "$file")"; }
    done
}

for arch in "$@"; do
    describe "$arch"
    prepare "$arch"
    say "$arch: with $triplet-gcc"
    if [ -n "${MAKE_IN:-}" ]; then
        bring "$arch"
    else
        build "$arch"
        run "$arch"
        [ "$arch" != armhf ] || package "$arch"
    fi
done
say "fine"
