#!/bin/sh
# Pack one cell: the tree and what goes with it, under one top folder, as a tar.gz with the same bytes each time.
#
# inputs   tree/     from the compile stage
#          extra/    manifest.json, utils/, systemd/
# outputs  out/package.tar.gz
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT

top=$root/pack/$PIKAFORGE_PRODUCT
mkdir -p "$root/pack"
mv "$root/tree" "$top"
cp -R "$root/extra/." "$top/"
mkdir -p "$top/lib"
# Sorted, one owner, one time, modes without the umask's part; gzip without name and time. Two steps, because the
# status of a pipe is its last command's only.
archive "$root/package.tar" "$SOURCE_DATE_EPOCH" --directory "$root/pack" \
    --sort=name --mode=u+rw,go-w,a+rX "$PIKAFORGE_PRODUCT"
gzip -n -9 <"$root/package.tar" >"$root/out/package.tar.gz"
