#!/bin/sh
# The Debian package for a Raspberry Pi as somebody new to olla meets it, in a small Debian of ARM programs under qemu:
# installed, configured as README.md says, first requests, reload, upgrade, purge. tests/cross.sh makes the packages:
#
#   tests/deb-armhf.sh PACKAGE NEWER_PACKAGE
#
# The server programs, clients and qemu are in the Debian that has the compiler, build/chroot/cross-armhf. What the unit
# starts is started here by its user: a systemd of ARM would run, too, but takes minutes more. tests/deb.sh tries the unit.
set -eu

# shellcheck source=tests/chroot.sh
. "$(dirname "$0")/chroot.sh"
[ $# -eq 2 ] || { echo "usage: tests/deb-armhf.sh PACKAGE NEWER_PACKAGE" >&2; exit 2; }
become_root "$@"
if ! unshare --user --map-root-user --mount mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null; then
    say "not tried: it takes Linux 6.7 or later, where a user namespace can have a binfmt_misc of its own"
    exit 0
fi

name=armhf-try
root=$chroots/$name
out=$chroots/armhf.out

fail() {
    echo "deb-armhf: $*" >&2
    exit 1
}

# shellcheck disable=SC2317  # called by trap
finish() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ] && [ -s "$out" ]; then
        tail -n 20 "$out" | cut -c1-300 >&2
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# run SCRIPT [ARGUMENTS]: in there, to its end
run() {
    emulated "$name" "$@" >"$out" 2>&1
    wait "$machine"
}

make_armhf() {
    rm -rf --one-file-system "$chroots/armhf" "$chroots/armhf.part"
    # First without running anything of it; then it goes on by itself. Without waiting for the disk, and without texts.
    timeout 600 debootstrap --foreign --arch=armhf --variant=minbase --include="$depends" bookworm "$chroots/armhf.part" || return 1
    mkdir -p "$chroots/armhf.part/etc/dpkg/dpkg.cfg.d"
    printf 'path-exclude=/usr/share/%s\n' 'doc/*' 'locale/*' 'man/*' 'zoneinfo/*' >"$chroots/armhf.part/etc/dpkg/dpkg.cfg.d/small"
    echo force-unsafe-io >>"$chroots/armhf.part/etc/dpkg/dpkg.cfg.d/small"
    cp "$chroots/cross-armhf/usr/bin/qemu-arm-static" "$chroots/armhf.part/usr/bin/"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$chroots/armhf.part/etc/hosts"
    emulated armhf.part 'exec /debootstrap/debootstrap --second-stage'
    wait "$machine" && mv "$chroots/armhf.part" "$chroots/armhf"
}

# The least Debian and what the package depends on: so a library that it forgot is seen.
depends=$(dpkg-deb -f "$1" Depends | sed 's/([^)]*)//g; s/ //g')
if [ ! -x "$chroots/armhf/bin/sh" ] || [ "$(cat "$chroots/armhf.stamp" 2>/dev/null)" != "$depends" ]; then
    rm -f "$chroots/armhf.stamp"
    retry "a small Debian of ARM programs" make_armhf
    echo "$depends" >"$chroots/armhf.stamp"
fi

# A network of its own, where the ports of README.md are free; and whatever runs ends with this.
[ "$$" -eq 1 ] || exec unshare --net --pid --fork --kill-child --mount-proc "$0" "$@"
inside cross-armhf 'ip link set lo up'
# shellcheck disable=SC2016  # for the shell inside
serve='cd /olla && exec python3 tests/samples/sample_server.py --port "$1" --name "$1" --dialect "$2" --models "$3"'
inside cross-armhf "$serve" 11434 ollama sample-small >"$chroots/armhf.server" 2>&1 &
inside cross-armhf "$serve" 8080 openai sample-other >"$chroots/armhf.server" 2>&1 &

rm -rf --one-file-system "$root"
cp -a "$chroots/armhf" "$root"
cp "$1" "$root/root/old.deb"
cp "$2" "$root/root/new.deb"

ask() { # URL
    # shellcheck disable=SC2016  # for the shell inside
    inside cross-armhf 'exec curl -sf -m 5 "$1"' "$1" 2>/dev/null
}

# eventually COMMAND...: within 30 seconds
eventually() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || fail "did not come true: $*"
        sleep 0.2
    done
}

# As the unit does it.
start() {
    command=$(sed -n 's/^ExecStart=//p' "$root/usr/lib/systemd/system/olla.service")
    user=$(sed -n 's/^User=//p' "$root/usr/lib/systemd/system/olla.service")
    emulated "$name" "exec setpriv --reuid $user --regid $user --clear-groups $command" >"$out" 2>&1
}

# It is the first process in there.
signal() {
    kill -"$1" "$(tr -d ' ' <"/proc/$machine/task/$machine/children")"
}

stop() {
    signal TERM
    wait "$machine" || fail "it ended with exit code $?"
}

# logged TEXT...: a line of the log has all of them
logged() {
    cp "$out" "$chroots/armhf.seen"
    for text; do
        grep -F -- "$text" "$chroots/armhf.seen" >"$chroots/armhf.next" || return 1
        mv "$chroots/armhf.next" "$chroots/armhf.seen"
    done
}

say "install"
run 'dpkg -i /root/old.deb && olla --version && stat -c %U:%G:%a /etc/olla.ini && su -s /bin/sh olla -c "olla -t -c /etc/olla.ini"' ||
    fail "the installation"
for line in "$(dpkg-deb -f "$1" Version | cut -d - -f 1)" root:olla:640; do
    grep -qxF "$line" "$out" || fail "no line \"$line\""
done

say "configure as in README.md, first requests"
awk '/^```ini/ && !seen { seen = inside = 1; next } /^```/ { inside = 0 } inside' "$top/README.md" |
    sed 's/192\.168\.1\.[0-9]*/127.0.0.1/' >"$root/etc/olla.ini"
start
eventually ask http://127.0.0.1:40114/internal/health
eventually logged '"msg":"models","endpoint":"gaming-pc"'
eventually logged '"msg":"models","endpoint":"mini-pc"'
awk '/^## / { here = /First requests/; inside = 0 } here && /^```/ { inside = !inside; next } inside' "$top/README.md" >"$chroots/cross-armhf/requests"
inside cross-armhf 'sh -e /requests' >"$chroots/armhf.replies" 2>/dev/null || fail "a request of README.md fails"
for text in '"id":"sample-other"' '[DONE]' '"done": true' 'event: message_stop' '"endpoints"'; do
    grep -qF -- "$text" "$chroots/armhf.replies" || fail "no $text in the replies"
done
for path in /v1/chat/completions /api/chat /v1/messages; do
    eventually logged '"msg":"request"' "\"path\":\"$path\"" '"status":200,"end":"--","endpoint":"gaming-pc"'
done

say "reload"
sed -i '/^host/a port = 40200' "$root/etc/olla.ini"
signal HUP
eventually ask http://127.0.0.1:40200/internal/health
stop

say "upgrade"
before=$(sha256sum <"$root/etc/olla.ini")
run 'dpkg -i --force-confdef --force-confold /root/new.deb' || fail "the upgrade"
[ "$(sha256sum <"$root/etc/olla.ini")" = "$before" ] || fail "the configuration did not stay"
start
eventually ask http://127.0.0.1:40200/internal/health
stop

say "purge"
run 'dpkg -P olla && find / -xdev -name "*olla*" ! -path "/proc/*" ! -path "/root/*" ! -path "*/log/*" ! -name "*olland*" \
    ! -name "*ollab*" ! -name "*collat*" ! -name "*rolla*" >/root/left' || fail "dpkg -P"
[ ! -s "$root/root/left" ] || fail "left behind: $(tr '\n' ' ' <"$root/root/left")"
say "fine"
