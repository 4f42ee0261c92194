#!/bin/sh
# Makes a package of what `make install` has put into a folder; `make deb` calls it.
#
#   package/debian/build.sh FOLDER [TRIPLET]     TRIPLET: arm-linux-gnueabihf or the like, for another machine
#
# Prints the name of the package, which is beside the folder. REVISION is Debian's part of the version, 1 by itself.
# The same tree gives the same bytes if SOURCE_DATE_EPOCH is set.
set -eu

[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: package/debian/build.sh FOLDER [TRIPLET]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$1" && pwd)
triplet=${2:-$(dpkg-architecture -qDEB_BUILD_MULTIARCH)}
version=$(sed -n 's/^#define OLLA_VERSION "\(.*\)"$/\1/p' "$here/../../olla.h")-${REVISION:-1}
arch=$(dpkg-architecture -qDEB_HOST_ARCH -f -t "$triplet" 2>/dev/null)
umask 022

find "$root/usr/share/man" -type f ! -name '*.gz' -exec gzip -9n {} +
doc=$root/usr/share/doc/olla
mkdir -p "$doc" "$root/DEBIAN" "$root/etc/olla"
cp "$here/copyright" "$doc/copyright"
gzip -9nc "$here/../../CHANGELOG.md" >"$doc/changelog.gz"
gzip -9nc >"$doc/changelog.Debian.gz" <<END
olla ($version) unstable; urgency=medium

  * See changelog.gz.

 -- $(sed -n 's/^Maintainer: //p' "$here/control.in")  $(date -uR ${SOURCE_DATE_EPOCH:+-d "@$SOURCE_DATE_EPOCH"})
END

# The libraries, with the versions that it was linked with. The tool wants a source tree around it.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian"
printf 'Source: olla\n\nPackage: olla\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && DEB_HOST_ARCH=$arch dpkg-shlibdeps -O "$root/usr/sbin/olla" 2>"$work/said") || {
    cat "$work/said" >&2
    exit 1
}
# What that does not see: packed relocations need a C library that unpacks them.
if grep -q GLIBC_ABI_DT_RELR "$root/usr/sbin/olla"; then
    depends=$(echo "$depends" | sed -E 's/libc6 \(>= 2\.([0-9]|[12][0-9]|3[0-5])\)/libc6 (>= 2.36)/')
fi

for script in postinst prerm postrm; do
    install -m 0755 "$here/$script" "$root/DEBIAN/$script"
done
echo /etc/olla.ini >"$root/DEBIAN/conffiles"
(cd "$root" && find etc usr lib -type f 2>/dev/null | grep -v '^etc/' | LC_ALL=C sort | xargs md5sum) >"$root/DEBIAN/md5sums"
sed -e "s|@VERSION@|$version|; s|@ARCH@|$arch|; s|@DEPENDS@|${depends#shlibs:Depends=}|" \
    -e "s|@SIZE@|$(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f 1)|" "$here/control.in" >"$root/DEBIAN/control"
find "$root" -newermt "@${SOURCE_DATE_EPOCH:-9999999999}" -exec touch -hd "@${SOURCE_DATE_EPOCH:-0}" {} +

package=$(dirname "$root")/olla_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
