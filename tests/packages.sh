#!/bin/sh
# Checks the packages as far as that is possible without the trees of OpenWrt and Buildroot:
#
#   tests/packages.sh PATH_TO_OLLA
#
# Versions and names agree; fields, layout and shell are as the two want them; both recipes run with stand-ins for those
# trees (tests/packages/) and this machine's compiler; what they install works; the start scripts do what they say.
set -eu
cd "$(dirname "$0")/.."

[ $# -eq 1 ] || { echo "usage: tests/packages.sh PATH_TO_OLLA" >&2; exit 2; }
olla=$(readlink -f "$1")
openwrt=$PWD/package/openwrt/net/olla
buildroot=$PWD/package/buildroot
recipe=$buildroot/package/olla
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
bad=0
complain() {
    echo "packages: $*" >&2
    bad=1
}

# has FILE REGEX MESSAGE
has() {
    grep -qE -- "$2" "$1" || complain "$1: $3"
}

# Lines of FILE that match are faults.
none() {
    if grep -nE -- "$2" "$1" >"$work/found"; then
        complain "$1: $3"
        sed 's/^/    /' "$work/found" >&2
    fi
}

echo "== versions"
version=$("$olla" --version)
has olla.h "define OLLA_VERSION \"$version\"" "is not the source of $olla"
has CHANGELOG.md "^## $version( |\$)" "has no heading for $version"
has "$openwrt/Makefile" "^PKG_VERSION:=$version\$" "is not for $version"
has "$recipe/olla.mk" "^OLLA_VERSION = $version\$" "is not for $version"
has "$recipe/olla.hash" "  olla-$version.tar.gz\$" "is not for $version"
echo "$version" | grep -qE '^[0-9]+(\.[0-9]+)*((_alpha|_beta|_pre|_rc|_git|_p)[0-9]*)?$' || complain "$version is no version for apk"
for file in "$openwrt/Makefile" "$recipe/olla.mk"; do
    if grep -q OWNER "$file"; then
        echo "not released yet: $file has no address and no hash (package/README.md)"
    fi
done

echo "== OpenWrt: fields and layout"
for field in PKG_NAME PKG_VERSION PKG_RELEASE PKG_SOURCE PKG_SOURCE_URL PKG_HASH PKG_MAINTAINER PKG_LICENSE PKG_LICENSE_FILES; do
    has "$openwrt/Makefile" "^$field:=." "$field is missing"
done
for field in SECTION CATEGORY TITLE URL DEPENDS USERID FILE_MODES; do
    has "$openwrt/Makefile" "^  $field:=." "$field is missing, or is not indented with two spaces"
done
has "$openwrt/Makefile" '^PKG_MAINTAINER:=.* <.*@.*>$' "the maintainer has no address"
# Texts that are echoed into files begin at the margin; commands with a tab; the rest with two spaces.
awk '
    /^define / { kind = $2 ~ /conffiles$|inst$|rm$/ ? "" : $2 ~ /^Build|install$/ ? "\t" : "  "; inside = 1; next }
    /^endef/ { inside = 0; next }
    inside && $0 != "" && (match($0, /^[ \t]*/) >= 0) && substr($0, 1, RLENGTH) != kind { print FNR ": " $0; bad = 1 }
    !inside && /^[ \t]/ { print FNR ": " $0; bad = 1 }
    END { exit bad }
' "$openwrt/Makefile" >"$work/found" || { complain "$openwrt/Makefile: indented in a wrong way:"; cat "$work/found" >&2; }
none "$openwrt/Makefile" '(define|call|eval) [^,]*\$\(PKG_NAME\)' "names stand as they are in define, call and eval"
none "$openwrt/Makefile" '[ 	]+$' "blanks at the end of a line"

echo "== Buildroot: fields and layout"
for word in name desc; do
    has "$buildroot/external.desc" "^$word: ." "$word is missing"
done
awk '
    function fault(what) { print FILENAME ":" FNR ": " what ": " $0; bad = 1 }
    BEGIN { rank["bool"] = rank["prompt"] = rank["string"] = rank["int"] = 1; rank["default"] = 2; rank["range"] = 2; rank["depends"] = 3
            rank["select"] = 4; rank["help"] = 5 }
    /[ \t]$/ { fault("blank at the end") }
    /^$/ || /^#/ { next }
    /^(config|if|endif|source|menu|endmenu|comment) ?/ { at = 0; help = 0; next }
    help && /^\t  / { if (length($0) > 65 && $1 !~ /^https?:/) fault("longer than 62 characters"); next }
    !/^\t[a-z]/ { fault("one tab, or in a help text a tab and two spaces"); next }
    { if (rank[$1] < at) fault("order: type, default, depends on, select, help"); at = rank[$1]; help = $1 == "help" }
    /^\tdefault n$/ { fault("is so anyway") }
    END { exit bad }
' "$recipe/Config.in" >"$work/found" || { complain "Config.in:"; cat "$work/found" >&2; }
for field in VERSION SITE LICENSE LICENSE_FILES DEPENDENCIES; do
    has "$recipe/olla.mk" "^OLLA_$field \\+?= ?." "OLLA_$field is missing"
done
{ yes '#' 2>/dev/null || true; } | head -n 80 | tr -d '\n' >"$work/line"
printf '\n#\n# olla\n#\n' | cat "$work/line" - "$work/line" >"$work/head"
echo >>"$work/head"
head -n 5 "$recipe/olla.mk" | cmp -s - "$work/head" || complain "$recipe/olla.mk: does not begin with the usual five lines"
none "$recipe/olla.mk" '^ifn?def ' "ifdef is not used there"
# shellcheck disable=SC2016  # these are make's
none "$recipe/olla.mk" '\$\{' 'variables are $(so)'
none "$recipe/olla.mk" '^ +|[ 	]+$|\\[ 	]+$' "indented with blanks, or blanks at the end of a line"
# shellcheck disable=SC2016
grep -oE '^(export )?[A-Z0-9_]+ *[+:]?=' "$recipe/olla.mk" | grep -vE '^OLLA_' && complain "olla.mk: sets variables of others"
# shellcheck disable=SC2016
has "$recipe/olla.mk" '^\$\(eval \$\(generic-package\)\)$' "is no generic package"
if grep -vE '^#|^sha256  [0-9a-f]{64}  [^ ]+$' "$recipe/olla.hash"; then
    complain "$recipe/olla.hash: a line is: sha256, two spaces, the hash, two spaces, the file"
fi
awk '$3 == "LICENSE" { print $2 "  " $3 }' "$recipe/olla.hash" | sha256sum -c --quiet - || complain "olla.hash: not the hash of LICENSE"
has "$recipe/S60olla" '^DAEMON="olla"$' "DAEMON is the name without a path"
# shellcheck disable=SC2016
has "$recipe/S60olla" '^PIDFILE="/var/run/\$DAEMON.pid"$' "PIDFILE has another place"
none "$recipe/S60olla" '^	* ' "indented with blanks"
for file in "$recipe"/* "$openwrt/Makefile" "$openwrt/files"/*; do
    [ ! -x "$file" ] || complain "$file: must not be executable in the tree"
    [ -z "$(tail -c 1 "$file")" ] || complain "$file: no newline at the end"
done

echo "== shell"
shellcheck -s dash -e SC2034,SC2154 "$openwrt/files/olla.init" || bad=1
shellcheck -s sh "$openwrt/test.sh" "$recipe/S60olla" || bad=1
[ "$bad" -eq 0 ] || exit 1

# The tree as a release has it.
take_tree() {
    mkdir -p "$1"
    tar --exclude=./build --exclude=./.git --exclude=__pycache__ -cf - . | tar -C "$1" -xf -
}

quietly() {
    if ! "$@" >"$work/log" 2>&1; then
        tail -n 30 "$work/log" >&2
        complain "failed: $*"
        exit 1
    fi
}

echo "== OpenWrt: build and install"
take_tree "$work/wrt/olla-$version"
mkdir "$work/dl" "$work/wrt/root"
cp /usr/include/jsmn.h "$work/dl/jsmn-1.1.0.h"
(cd "$openwrt" && quietly make -j2 TOPDIR="$OLDPWD/tests/packages/openwrt" BUILD_DIR="$work/wrt" DL_DIR="$work/dl" DEST="$work/wrt/root")
for flag in -std=c99 -Os -DOLLA_MAX_CLIENTS=256; do
    grep -q -- " $flag " "$work/log" || complain "OpenWrt: built without $flag"
done
root=$work/wrt/root
[ "$(cd "$root" && find . -type f | sort | tr '\n' ' ')" = "./etc/config/olla ./etc/init.d/olla ./etc/olla.ini ./usr/sbin/olla " ] ||
    { complain "OpenWrt: other files than expected:"; find "$root" -type f >&2; }
sed -n '/conffiles$/,/^endef/p' "$openwrt/Makefile" | grep ^/ | while read -r file; do
    [ -f "$root$file" ] || { complain "OpenWrt: the conffile $file is not installed"; exit 1; }
done || bad=1
"$root/usr/sbin/olla" -t -c "$root/etc/olla.ini" >/dev/null || complain "OpenWrt: the configuration has faults"
[ "$("$root/usr/sbin/olla" -m -c "$root/etc/olla.ini" | awk '$1 == "clients" { print $4 }')" = 256 ] || complain "OpenWrt: the limits are not those of the recipe"
mkdir "$work/bin"
cat >"$work/bin/olla" <<END
#!/bin/sh
[ "\$1" != -t ] || exec '$root/usr/sbin/olla' -t -c '$root/etc/olla.ini'
exec '$root/usr/sbin/olla' "\$@"
END
chmod +x "$work/bin/olla"
PATH=$work/bin:$PATH sh "$openwrt/test.sh" olla "$version" >/dev/null || complain "test.sh fails for the right version"
if PATH=$work/bin:$PATH sh "$openwrt/test.sh" olla 9.9.9 >/dev/null 2>&1; then
    complain "test.sh does not see a wrong version"
fi

echo "== OpenWrt: start script"
# What procd would be told, with a file that is right and one that is not, and when it is not enabled.
cat >"$work/rc.common" <<'END'
config_load() { :; }
config_get_bool() { eval "$1=$ENABLED"; }
procd_open_instance() { echo open; }
procd_close_instance() { echo close; }
procd_set_param() { echo "set $*"; }
procd_add_reload_trigger() { echo "trigger $*"; }
END
init() { # ENABLED CONFIG FUNCTION
    ENABLED=$1 sh -c ". '$work/rc.common'; . '$root/etc/init.d/olla'; PROG='$root/usr/sbin/olla'; CONF='$2'; $3" >"$work/said" 2>&1
}
init 0 "$root/etc/olla.ini" start_service || complain "init: fails when it is not enabled"
[ ! -s "$work/said" ] || complain "init: starts when it is not enabled"
init 1 "$root/etc/olla.ini" start_service || complain "init: fails with a right file"
for line in "set command $root/usr/sbin/olla -c $root/etc/olla.ini" "set file $root/etc/olla.ini" "set reload_signal HUP" "set user olla" \
    "set group olla" "set no_new_privs 1" "set stdout 1" "set stderr 1" close; do
    grep -qxF "$line" "$work/said" || complain "init: does not say: $line"
done
printf '[server]\nport = x\n' >"$work/bad.ini"
if init 1 "$work/bad.ini" start_service || grep -qx open "$work/said"; then
    complain "init: starts with a file that has faults"
fi
init 1 "$root/etc/olla.ini" service_triggers
grep -qx "trigger olla" "$work/said" || complain "init: no trigger for reload"

echo "== Buildroot: build and install"
for tls in y n; do
    root=$work/br-$tls/root
    take_tree "$work/br-$tls/olla"
    quietly make -f tests/packages/buildroot/stand-in.mk RECIPE="$recipe/olla.mk" TREE="$work/br-$tls/olla" TARGET_DIR="$root" \
        BR2_PACKAGE_OLLA_TLS="$tls" BR2_PACKAGE_OLLA_MAX_CLIENTS=64
    for flag in -std=c99 -Os -DOLLA_MAX_CLIENTS=64; do
        grep -q -- " $flag " "$work/log" || complain "Buildroot: built without $flag"
    done
    wanted="inih jsmn mbedtls"
    [ "$tls" = y ] || wanted="inih jsmn"
    [ "$(cat "$work/br-$tls/olla/dependencies")" = "$wanted" ] || complain "Buildroot: other dependencies with TLS=$tls"
    for file in etc/init.d/S60olla etc/olla.ini usr/lib/systemd/system/olla.service usr/sbin/olla; do
        [ -f "$root/$file" ] || complain "Buildroot: $file is not installed"
    done
    "$root/usr/sbin/olla" -V | grep -q mbedTLS && with=y || with=n
    [ "$with" = "$tls" ] || complain "Buildroot: TLS is $with instead of $tls"
    "$root/usr/sbin/olla" -t -c "$root/etc/olla.ini" >/dev/null || complain "Buildroot: the configuration has faults"
    has "$root/etc/olla.ini" '^output = syslog$' "the log of what S60olla starts would be lost"
    sed 's/^;output = stdout$/output = syslog/' olla.ini | cmp -s - "$root/etc/olla.ini" || complain "Buildroot: other settings are changed, too"
done

[ "$bad" -eq 0 ] || exit 1
echo "packages: fine"
