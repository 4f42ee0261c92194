# For tests that need a whole Debian of their own: folders below ${OLLA_CHROOT_DIR:-build/chroot}, which are kept and used
# again. Read in by scripts that run as root; nothing outside of that folder is changed, and nothing stays mounted.
#
# shellcheck shell=sh

PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
chroots=${OLLA_CHROOT_DIR:-$top/build/chroot}

say() {
    echo "$(basename "$0"): $*"
}

become_root() {
    [ "$(id -u)" -ne 0 ] || return 0
    command -v sudo >/dev/null 2>&1 || { say "root is needed for chroot, and there is no sudo" >&2; exit 1; }
    exec sudo -E "$0" "$@"
}

# retry NAME COMMAND...: up to three attempts; the end of what it said is shown when all failed
retry() {
    step=$1
    shift
    attempt=1
    while :; do
        say "$step"
        if "$@" >"$chroots/log" 2>&1 </dev/null; then
            return 0
        fi
        if [ "$attempt" -ge 3 ]; then
            say "'$step' failed three times; the last lines are:" >&2
            tail -n 20 "$chroots/log" | cut -c1-300 | sed 's/^/    /' >&2
            exit 1
        fi
        attempt=$((attempt + 1))
        sleep "$((attempt * 3))"
    done
}

# inside NAME SCRIPT [ARGUMENTS]: sh runs it there, in a mount namespace that ends with it
inside() {
    where=$chroots/$1
    script=$2
    shift 2
    # shellcheck disable=SC2016  # for the inner shell
    unshare --mount --fork sh -c 'mount --make-rprivate / && mount -t proc proc "$0/proc" && exec chroot "$0" /bin/sh -c "$@"' \
        "$where" "$script" inside "$@"
}

make_base() {
    rm -rf --one-file-system "$chroots/$1.part" "$chroots/base-$1"
    timeout 900 debootstrap --variant=minbase "$1" "$chroots/$1.part" && mv "$chroots/$1.part" "$chroots/base-$1"
}

fill() {
    rm -rf --one-file-system "${chroots:?}/$1"
    cp -a "$chroots/base-$2" "$chroots/$1" || return 1
    cp /etc/resolv.conf "$chroots/$1/etc/resolv.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$chroots/$1/etc/hosts"
    # Licences are kept: what is linked statically comes with them.
    printf 'path-exclude=/usr/share/%s\n' 'doc/*' 'locale/*' 'man/*' 'info/*' >"$chroots/$1/etc/dpkg/dpkg.cfg.d/small"
    echo 'path-include=/usr/share/doc/*/copyright' >>"$chroots/$1/etc/dpkg/dpkg.cfg.d/small"
    inside "$1" "set -e; export DEBIAN_FRONTEND=noninteractive LC_ALL=C; $3; apt-get clean"
}

# have NAME RELEASE SCRIPT: a Debian of that release in which the script was run
have() {
    mkdir -p "$chroots"
    if [ ! -x "$chroots/base-$2/bin/sh" ]; then
        retry "a small Debian $2" make_base "$2"
    fi
    if [ ! -x "$chroots/$1/bin/sh" ] || [ "$(cat "$chroots/$1.stamp" 2>/dev/null)" != "$2 $3" ]; then
        rm -f "$chroots/$1.stamp"
        retry "what $1 needs, from Debian's packages" fill "$1" "$2" "$3"
        echo "$2 $3" >"$chroots/$1.stamp"
    fi
}

# emulated NAME SCRIPT [ARGUMENTS]: sh, a program of ARM, runs it there. A user namespace has a binfmt_misc of its own
# (Linux 6.7), so that this machine does not learn to run such programs. All processes end with it.
emulated() {
    where=$chroots/$1
    script=$2
    shift 2
    gate=$(mktemp -d)
    mkfifo "$gate/in" "$gate/out"
    # shellcheck disable=SC2016  # for the inner shell
    unshare --user --mount --pid --fork --kill-child sh -c 'gate=$1 where=$2; shift 2
        echo >"$gate/in" && read -r _ <"$gate/out" && rm -r "$gate"
        set -e
        mount --make-rprivate /
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
        head="\\x7fELF\\x01\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x28\\x00"
        mask="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff"
        printf "%s" ":arm:M::$head:$mask:/usr/bin/qemu-arm-static:" >/proc/sys/fs/binfmt_misc/register
        mount -t proc proc "$where/proc"
        exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive \
            chroot "$where" /bin/sh -c "$@"' emulated "$gate" "$where" "$script" emulated "$@" </dev/null &
    machine=$!
    # It cannot say who its users are: these are the same as outside.
    timeout 20 head -n 1 "$gate/in" >/dev/null || { say "no user namespaces here" >&2; exit 1; }
    echo "0 0 65536" >"/proc/$machine/uid_map"
    echo "0 0 65536" >"/proc/$machine/gid_map"
    echo >"$gate/out"
}
