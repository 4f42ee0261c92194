#!/bin/sh
# Prepares what `make test-real` runs against, in the folder ${OLLA_REAL_DIR:-build/real}:
#   sid/      a small Debian sid with llama-server (debootstrap; about 500 MB, some minutes the first time)
#   models/   inside sid: tiny-a.gguf and tiny-b.gguf, random weights, half a megabyte each
#   venv/     Python with the official `openai`, `ollama` and `anthropic` client libraries, and pytest
#   node/     the npm packages `openai`, `ollama` and `@anthropic-ai/sdk`
#   litellm/  Python with a real LiteLLM proxy (750 MB); apart, because it needs an older `openai` than the tests want
# What is there is used again; a step that fails is repeated, and when it still fails the message names it.
# Remove the folder to start afresh.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
dir=${OLLA_REAL_DIR:-$top/build/real}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
log=$dir/prepare.log
python=/usr/bin/python3
[ -x "$python" ] || python=python3

say() {
    echo "prepare: $*"
}

# retry NAME COMMAND...: up to three attempts, output to the log, its end shown when all failed
retry() {
    name=$1
    shift
    attempt=1
    while :; do
        say "$name (attempt $attempt of 3)"
        if "$@" >"$log" 2>&1; then
            return 0
        fi
        if [ "$attempt" -ge 3 ]; then
            say "step '$name' failed; the last lines of $log are:" >&2
            tail -n 15 "$log" | cut -c1-300 | sed 's/^/    /' >&2
            exit 1
        fi
        attempt=$((attempt + 1))
        sleep "$((attempt * 3))"
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "root or sudo is needed for: $*" >&2
        return 1
    fi
}

remove_system() {
    for inner in proc sys dev/pts dev; do
        if grep -q " $dir/sid/$inner " /proc/mounts 2>/dev/null; then
            as_root umount -l "$dir/sid/$inner" || return 1
        fi
    done
    as_root rm -rf --one-file-system "$dir/sid"
}

# A half-made system cannot be continued, so each attempt starts with an empty one; the packages it got are kept.
make_system() {
    remove_system || return 1
    mkdir -p "$dir/packages" || return 1
    as_root timeout 1800 debootstrap --variant=minbase --cache-dir="$dir/packages" \
        --include=llama.cpp-tools,python3-gguf sid "$dir/sid" || return 1
    as_root mkdir -p "$dir/sid/models"
}

in_system() {
    as_root chroot "$dir/sid" "$@"
}

make_models() {
    as_root cp "$here/tiny_model.py" "$dir/sid/models/tiny_model.py" || return 1
    for model in tiny-a:7 tiny-b:8; do
        in_system timeout 300 /usr/bin/python3 /models/tiny_model.py "/models/${model%:*}.part" \
            "${model%:*}" "${model#*:}" || return 1
        as_root mv "$dir/sid/models/${model%:*}.part" "$dir/sid/models/${model%:*}.gguf" || return 1
    done
    as_root chmod -R a+rX "$dir/sid/models"
}

# make_venv FOLDER REQUIREMENTS
make_venv() {
    [ -x "$dir/$1/bin/pip" ] || timeout 300 "$python" -m venv --clear "$dir/$1" || return 1
    timeout 900 "$dir/$1/bin/pip" install --quiet --retries 2 -r "$here/$2"
}

make_node() {
    mkdir -p "$dir/node" || return 1
    cp "$here/package.json" "$dir/node/" || return 1
    timeout 900 npm install --prefix "$dir/node" --no-audit --no-fund --loglevel=error
}

# has STAMP SOURCE: the step was completed with just this source
has() {
    [ -f "$dir/$1.stamp" ] && cmp -s "$dir/$1.stamp" "$2"
}

if [ ! -f "$dir/system.stamp" ] || [ ! -x "$dir/sid/usr/bin/llama-server" ]; then
    if ! PATH=$PATH:/usr/sbin:/sbin command -v debootstrap >/dev/null 2>&1; then
        say "debootstrap is missing: tests/deps.sh real installs it" >&2
        exit 1
    fi
    PATH=$PATH:/usr/sbin:/sbin
    retry "Debian sid with llama-server" make_system
    rm -rf "$dir/packages"
    rm -f "$dir/models.stamp"
    date >"$dir/system.stamp"
fi
if ! has models "$here/tiny_model.py" || [ ! -f "$dir/sid/models/tiny-b.gguf" ]; then
    retry "tiny models" make_models
    cp "$here/tiny_model.py" "$dir/models.stamp"
fi
if ! has venv "$here/requirements.txt" || ! "$dir/venv/bin/python" -c 'import anthropic, openai, ollama, pytest' 2>/dev/null; then
    retry "Python client libraries" make_venv venv requirements.txt
    cp "$here/requirements.txt" "$dir/venv.stamp"
fi
if ! has litellm "$here/litellm.txt" || [ ! -x "$dir/litellm/bin/litellm" ]; then
    retry "LiteLLM" make_venv litellm litellm.txt
    cp "$here/litellm.txt" "$dir/litellm.stamp"
fi
if ! has node "$here/package.json" || [ ! -d "$dir/node/node_modules/openai" ] ||
    [ ! -d "$dir/node/node_modules/@anthropic-ai/sdk" ]; then
    retry "npm client libraries" make_node
    cp "$here/package.json" "$dir/node.stamp"
fi
cp "$here"/*.mjs "$dir/node/"
say "ready in $dir"
