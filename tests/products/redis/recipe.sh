#!/bin/sh
# Build redis 7.0 from its release tarball with Debian's patches. compile.sh runs this in the source folder with OUT,
# JOBS, PIKAFORGE_ALLOCATOR and SOURCE_DATE_EPOCH, and with the compiler wrapper first on PATH, as CC.
set -eu

if [ "$PIKAFORGE_ALLOCATOR" != none ]; then
    printf 'recipe: PIKAFORGE_ALLOCATOR is %s; only none is known here\n' "$PIKAFORGE_ALLOCATOR" >&2
    exit 1
fi

# src/mkreleasehdr.sh writes the name of the host and the time into every binary ("build=" of INFO and --version),
# unless SOURCE_DATE_EPOCH is set: then only that. Each container has another name.
export SOURCE_DATE_EPOCH
# The same script asks git for a commit. If the tree is inside of a checkout (host engine), that would be the wrong one.
# A GIT_DIR that does not exist gives 00000000.
export GIT_DIR=/nonexistent

# Makefile.dep says which headers each file includes, and make makes it first: the preprocessor reads all files of src/,
# which no compiler cache can save. A tree that is compiled once does not need it.
: >src/Makefile.dep

# MALLOC: that of the C library. The bundled jemalloc takes longer to build than all the rest. V: the log shows the
# commands. USE_SYSTEMD, BUILD_TLS: else it depends on what the image has. PYTHON: else make may generate commands.c
# again where there is a python, depending on the times of files.
make -C src -j"$JOBS" V=1 MALLOC=libc USE_SYSTEMD=no BUILD_TLS=no PYTHON= all

mkdir -p "$OUT/bin" "$OUT/conf"
for name in redis-server redis-cli redis-benchmark; do
    install -m 755 "src/$name" "$OUT/bin/$name"
done
# One program with four names. It looks at its name.
for name in redis-sentinel redis-check-rdb redis-check-aof; do
    ln -s redis-server "$OUT/bin/$name"
done
install -m 644 redis.conf "$OUT/conf/redis.conf"
