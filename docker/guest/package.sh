#!/bin/sh
# Pack the tree and the files that go with it, under one top folder, as a tar.gz with the same bytes each time.
#
# inputs   tree/     from the compile stage
#          extra/    manifest.json, utils/, systemd/
# environment  PIKAFORGE_PRODUCT, the name of the top folder; SOURCE_DATE_EPOCH
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
# Names are sorted; owner, time and modes do not depend on the machine; gzip writes neither name nor time. Not a pipe,
# whose status is that of its last command only.
archive "$root/package.tar" "$SOURCE_DATE_EPOCH" --directory "$root/pack" \
    --sort=name --mode=u+rw,go-w,a+rX "$PIKAFORGE_PRODUCT"
gzip -n -9 <"$root/package.tar" >"$root/out/package.tar.gz"
