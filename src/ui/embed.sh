#!/bin/sh
# embed.sh FILE... > ui.c: the files of the dashboard as strings of C, for the Makefile. Any POSIX sh and sed will do.
#
# What only readers need stays out: indents, empty lines, lines that are nothing but a comment, blanks around the punctuation
# of CSS, around "=", "===", "=>" and "+" of JavaScript (so no text there may have these between blanks). Every "?" gets a
# backslash, so that no two of them are a trigraph. The files are ASCII.
set -eu

echo '#include "str.h"'
for file in "$@"; do
    name=ui_$(basename "$file" | tr . _)
    case $name in
    *_css) blanks='s/ *\([{};:,]\) */\1/g' ;;
    *_js) blanks='s/ \([+=]=*>*\) /\1/g' ;;
    *) blanks='' ;;
    esac
    echo "extern const struct str $name;"
    echo "const struct str $name = STR("
    sed -e 's/^ *//' -e '/^$/d' -e '/^\/\//d' -e '/^\/\*.*\*\/$/d' -e "$blanks" \
        -e 's/[\\"?]/\\&/g' -e 's/.*/"&\\n"/' "$file"
    echo ');'
done
