#!/bin/sh
# The Debian package in a small Debian with a systemd of its own, in namespaces: installed, started, reloaded, upgraded,
# removed, purged. The start script of Buildroot is tried there, too. `make test-deb` builds the packages and calls it:
#
#   tests/deb.sh PACKAGE NEWER_PACKAGE
#
# NEWER_PACKAGE is a higher revision whose /etc/olla.ini differs.
set -eu

# shellcheck source=tests/chroot.sh
. "$(dirname "$0")/chroot.sh"
[ $# -eq 2 ] || { echo "usage: tests/deb.sh PACKAGE NEWER_PACKAGE" >&2; exit 2; }
become_root "$@"

depends=$(dpkg-deb -f "$1" Depends)
have deb-packages bookworm "apt-get -q update
    apt-get -q -y install --no-install-recommends systemd systemd-sysv curl
    apt-get -q -y satisfy --no-install-recommends '$depends'
    cd /etc/systemd/system
    ln -s /dev/null systemd-sysctl.service && ln -s /dev/null systemd-modules-load.service
    ln -s /dev/null proc-sys-fs-binfmt_misc.automount && ln -s /dev/null proc-sys-fs-binfmt_misc.mount"
name=deb-$$
root=$chroots/$name
machine=
finish() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        say "failed; what systemd knows of olla:" >&2
        there journalctl -u olla -n 20 -o cat >&2 2>/dev/null || true
    fi
    [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
    wait
    rm -rf --one-file-system "$root"
    exit "$status"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM
cp -a "$chroots/deb-packages" "$root"
cp "$1" "$root/root/old.deb"
cp "$2" "$root/root/new.deb"
cp "$top/package/buildroot/package/olla/S60olla" "$root/root/S60olla"

# Not one thing of the machine outside is in reach: processes, network, names, control groups, mounts.
cat >"$root/root/boot" <<'END'
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --show-status=0 --unit=multi-user.target
END
unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child sh "$root/root/boot" "$root" >"$chroots/boot.log" 2>&1 &
machine=$!

# The first process in there; its parent is the one that unshare became.
first() {
    tr -d " " <"/proc/$machine/task/$machine/children" 2>/dev/null
}

there() {
    nsenter -t "$(first)" -m -p -n -i -u -C chroot "$root" "$@"
}

# eventually COMMAND...: within 20 seconds
eventually() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -ge 100 ]; then
            fail "did not come true: $*"
        fi
        sleep 0.2
    done
}

fail() {
    echo "deb: $*" >&2
    exit 1
}

# is WHAT WANTED GOT
is() {
    [ "$2" = "$3" ] || fail "$1: \"$3\" instead of \"$2\""
}

healthy() {
    there curl -sf -m 5 "http://127.0.0.1:$1/internal/health"
}

running() {
    [ "$(there systemctl is-system-running)" = running ]
}

main_pid() {
    there systemctl show -p MainPID --value olla
}

tries=0
until running 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -ge 150 ] || ! kill -0 "$machine" 2>/dev/null; then
        cat "$chroots/boot.log" >&2
        there systemctl --failed >&2 || true
        fail "systemd does not start in namespaces here"
    fi
    sleep 0.2
done

say "install"
there dpkg -i /root/old.deb >"$chroots/log" 2>&1 || { cat "$chroots/log" >&2; fail "dpkg -i"; }
is "state after the installation" active "$(there systemctl is-active olla)"
is "at the next start" enabled "$(there systemctl is-enabled olla)"
eventually healthy 40114
is "who runs it" olla "$(there stat -c %U "/proc/$(main_pid)")"
is "its shell" /usr/sbin/nologin "$(there getent passwd olla | cut -d : -f 7)"
is "the configuration" "root:olla:640" "$(there stat -c %U:%G:%a /etc/olla.ini)"
is "the folder for keys" "root:olla:2750" "$(there stat -c %U:%G:%a /etc/olla)"
is "the version" "$(dpkg-deb -f "$1" Version | cut -d - -f 1)" "$(there olla --version)"
there systemd-analyze verify olla.service

say "reload"
before=$(main_pid)
there sh -c 'sed -i s/^port.*/port=40200/ /etc/olla.ini && systemctl reload olla'
eventually healthy 40200
there sh -c 'cp -p /etc/olla.ini /root/good.ini && printf "[logging]\nlevel=x\n" >>/etc/olla.ini'
if there systemctl reload olla 2>/dev/null; then
    fail "a reload with a fault in the file succeeds"
fi
healthy 40200 >/dev/null || fail "a fault in the file stopped it"
there cp -p /root/good.ini /etc/olla.ini
there sh -c 'echo 0123456789abcdef >/etc/olla/alice.key && printf "[key:alice]\nsecret_file = /etc/olla/alice.key\n" >>/etc/olla.ini'
there systemctl reload olla || fail "a key that root has put into its folder cannot be read"
there cp -p /root/good.ini /etc/olla.ini
there systemctl reload olla
there rm /etc/olla/alice.key
is "the process" "$before" "$(main_pid)"

say "upgrade"
there chmod 0600 /etc/olla.ini
there chown olla /etc/olla.ini
there dpkg -i --force-confdef --force-confold /root/new.deb >"$chroots/log" 2>&1 || { cat "$chroots/log" >&2; fail "the upgrade"; }
eventually healthy 40200
[ "$(main_pid)" != "$before" ] || fail "the old program runs on"
is "the configuration" "$(there sha256sum </dev/null /root/good.ini | cut -d ' ' -f 1)" "$(there sha256sum /etc/olla.ini | cut -d ' ' -f 1)"
is "who may read it, as somebody wanted" "olla:olla:600" "$(there stat -c %U:%G:%a /etc/olla.ini)"

say "a stopped and disabled service stays so"
there systemctl disable --now olla 2>/dev/null
there dpkg -i --force-confdef --force-confold /root/old.deb >"$chroots/log" 2>&1 || { cat "$chroots/log" >&2; fail "back to the old one"; }
is "at the next start" disabled "$(there systemctl is-enabled olla || true)"

say "the start script of Buildroot"
script() {
    there sh /root/S60olla "$@" >"$chroots/log" 2>&1
}
there systemctl stop olla
there sed -i 's/^;output = stdout$/output = syslog/' /etc/olla.ini # as its package does
there sh -c 'chown root:olla /etc/olla.ini; chmod 0640 /etc/olla.ini'
script start || { cat "$chroots/log" >&2; fail "S60olla start"; }
eventually healthy 40200
pid=$(there cat /var/run/olla.pid)
is "who runs it" olla "$(there stat -c %U "/proc/$pid")"
eventually there sh -c "journalctl -t olla _PID=$pid -o cat | grep 'listening.*port=40200'"
there sed -i 's/^port.*/port=40300/' /etc/olla.ini
script reload || fail "S60olla reload"
eventually healthy 40300
is "the process" "$pid" "$(there cat /var/run/olla.pid)"
script restart || { cat "$chroots/log" >&2; fail "S60olla restart"; }
eventually healthy 40300
[ "$(there cat /var/run/olla.pid)" != "$pid" ] || fail "S60olla restart: the old process is still there"
there cp -p /etc/olla.ini /root/good.ini
there sh -c 'printf "[logging]\nlevel=x\n" >>/etc/olla.ini'
if script reload; then
    fail "S60olla reload succeeds with a fault in the file"
fi
script stop || fail "S60olla stop"
if healthy 40300 >/dev/null; then
    fail "S60olla stop: it runs on"
fi
if script start || script stop; then
    fail "S60olla: starts with a fault in the file, or stops what does not run"
fi
there cp -p /root/good.ini /etc/olla.ini

say "remove, install again"
there systemctl enable --now olla 2>/dev/null
eventually healthy 40300
there dpkg -r olla >"$chroots/log" 2>&1 || { cat "$chroots/log" >&2; fail "dpkg -r"; }
if healthy 40300 >/dev/null; then
    fail "it runs on after it was removed"
fi
there test -f /etc/olla.ini || fail "the configuration did not stay"
there dpkg -i --force-confdef --force-confold /root/old.deb >"$chroots/log" 2>&1 || { cat "$chroots/log" >&2; fail "dpkg -i, again"; }
eventually healthy 40300

say "purge"
there dpkg -P olla >"$chroots/log" 2>&1 || { cat "$chroots/log" >&2; fail "dpkg -P"; }
there find / -xdev -name '*olla*' ! -path '/proc/*' ! -path '/root/*' ! -path '/sys/*' ! -path '/tmp/*' ! -path '*/log/*' \
    ! -name '*olland*' ! -name '*ollab*' ! -name '*collat*' ! -name '*rolla*' >"$chroots/left"
[ ! -s "$chroots/left" ] || fail "left behind: $(tr '\n' ' ' <"$chroots/left")"
is "what dpkg knows" "" "$(there dpkg -l olla 2>/dev/null | grep '^[a-z]* *olla' || true)"
eventually running
say "fine"
