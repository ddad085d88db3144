#!/usr/bin/env bash
# Fetches LiteRT.js, as `npm install` would lay it, for tests and for `awn web --litertjs`:
#
#     tests/deploy/litertjs.sh FOLDER     # then: --litertjs FOLDER/@litertjs/core
#                                         # tests: AWN_LITERTJS=FOLDER
#
# Needs npm, and nothing that it would install: packages are unpacked only. Tarballs that
# lie in FOLDER already are taken as they are.
set -euo pipefail

version=2.5.3
mkdir -p "$1"
cd "$1"
for name in core wasm-utils; do
    tarball=litertjs-$name-$version.tgz
    [ -e "$tarball" ] || npm pack --silent "@litertjs/$name@$version" > /dev/null
    mkdir -p "@litertjs/$name"
    tar -xzf "$tarball" -C "@litertjs/$name" --strip-components 1 --no-same-permissions
done
