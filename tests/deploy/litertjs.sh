#!/usr/bin/env bash
# Fetches LiteRT.js into the folders that `npm install` would make, for tests and for
# `awn web --litertjs`:
#
#     tests/deploy/litertjs.sh FOLDER     # then: --litertjs FOLDER/@litertjs/core
#                                         # tests: AWN_LITERTJS=FOLDER
#
# Needs npm. Packages are only unpacked, so none of their scripts run. If a tarball is
# in FOLDER already, it is used instead of a download.
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
