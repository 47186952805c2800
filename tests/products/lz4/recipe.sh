#!/bin/sh
# Build lz4 1.9 from its release tarball with Debian's patches: the shared library, the tool, and a program of its
# examples, which shows that the library can be linked with. See docs/recipes.md.
set -eu

# BUILD_STATIC: only the shared library is packed. V: the log shows the commands.
make -C lib -j"$JOBS" V=1 BUILD_STATIC=no liblz4
make -C programs -j"$JOBS" V=1 lz4
gcc -O2 -Ilib -o simple-buffer examples/simple_buffer.c -Llib -llz4

mkdir -p "$OUT/bin" "$OUT/lib" "$OUT/include"
install -m 755 programs/lz4 simple-buffer "$OUT/bin/"
# One program with two names. It looks at its name.
ln -s lz4 "$OUT/bin/lz4cat"
# With the links: programs ask for liblz4.so.1, linkers for liblz4.so.
cp -P lib/liblz4.so lib/liblz4.so.1 lib/liblz4.so.1.9.4 "$OUT/lib/"
install -m 644 lib/lz4.h lib/lz4hc.h lib/lz4frame.h "$OUT/include/"
install -m 644 LICENSE "$OUT/LICENSE"
