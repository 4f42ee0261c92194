#!/bin/sh
# Packs what `make install` has put into a folder, linked statically, for systems without packages; `make tarball` calls it.
#
#   package/tarball.sh FOLDER PLATFORM
#
# Prints the name of the archive, which is beside the folder. The same tree gives the same bytes if SOURCE_DATE_EPOCH is set.
set -eu

[ $# -eq 2 ] || { echo "usage: package/tarball.sh FOLDER PLATFORM" >&2; exit 2; }
top=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$1" && pwd)
version=$(sed -n 's/^#define OLLA_VERSION "\(.*\)"$/\1/p' "$top/olla.h")
name=olla-$version-$(echo "$2" | tr / -)
work=$(dirname "$root")
made=$work/$name
umask 022

rm -rf "$made"
mkdir -p "$made/man" "$made/licences"
cp "$root/usr/sbin/olla" "$root/etc/olla.ini" "$top/LICENSE" "$top/README.md" "$top/CHANGELOG.md" "$top/package/systemd/olla.service" "$made/"
cp "$root"/usr/share/man/man?/* "$made/man/"
# What is in the program besides olla, in the words of those who packaged it.
for library in libc6-dev libinih-dev libjsmn-dev libmbedtls-dev; do
    text=/usr/share/doc/$library/copyright
    [ -f "$text" ] || { echo "tarball: $text is missing, and the program must not go without it" >&2; exit 1; }
    cp "$text" "$made/licences/$library"
done
cat >"$made/INSTALL" <<END
olla $version for $2. The program needs no library and no other file.

  ./olla -t -c olla.ini         checks the configuration
  ./olla -c olla.ini            starts it; man man/olla.8 tells more

To install it as a service of systemd, as root:

  install -m 0755 olla /usr/sbin/olla
  useradd --system --home-dir /var/lib/olla --shell /usr/sbin/nologin olla
  install -m 0640 -g olla olla.ini /etc/olla.ini
  install -m 0644 olla.service /etc/systemd/system/olla.service
  systemctl enable --now olla

Names are looked up in /etc/hosts and by DNS; other sources of names need the program of a package, or your own build. The
licences of what is linked into it are in licences/.
END
chmod 0644 "$made/olla.ini"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-$(date +%s)}" -cf - "$name" |
    gzip -9n >"$made.tar.gz"
rm -rf "$made"
echo "$made.tar.gz"
