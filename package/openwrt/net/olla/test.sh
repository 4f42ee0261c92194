#!/bin/sh
# $1 is the package, $2 its version.

[ "$1" = olla ] || exit 0

version=$(olla --version) || exit 1
[ "$version" = "$2" ] || {
	echo "olla --version says $version, the package is $2" >&2
	exit 1
}
olla -t -c /etc/olla.ini
