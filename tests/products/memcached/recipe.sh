#!/bin/sh
# Build memcached 1.6 from its release tarball with Debian's patches. See docs/recipes.md.
set -eu

if [ "$PIKAFORGE_ALLOCATOR" != none ]; then
    printf 'recipe: PIKAFORGE_ALLOCATOR is %s; only none is known here\n' "$PIKAFORGE_ALLOCATOR" >&2
    exit 1
fi

# --disable-dependency-tracking: each file is compiled once. The others depend on what the image has, if they are not
# said.
./configure --disable-dependency-tracking --disable-docs --disable-extstore --disable-sasl --disable-tls \
    --disable-seccomp --disable-coverage
make -j"$JOBS" memcached

mkdir -p "$OUT/bin"
install -m 755 memcached "$OUT/bin/memcached"
install -m 644 COPYING "$OUT/COPYING"
