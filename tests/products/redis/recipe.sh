#!/bin/sh
# Builds redis 7.0 from its release tarball with Debian's patches. compile.sh calls it
# in the source folder with
#   OUT JOBS PIKAFORGE_ALLOCATOR SOURCE_DATE_EPOCH
# and with the compiler wrapper first on PATH, as CC.
set -eu

if [ "$PIKAFORGE_ALLOCATOR" != none ]; then
    printf 'recipe: PIKAFORGE_ALLOCATOR is %s; only none is known here\n' "$PIKAFORGE_ALLOCATOR" >&2
    exit 1
fi

# src/mkreleasehdr.sh writes the host's name and the time into every binary ("build="
# of INFO and --version), unless SOURCE_DATE_EPOCH is set: then that alone. A
# container's name is another one each time.
export SOURCE_DATE_EPOCH
# The same script asks git for a commit. Where the tree lies in somebody's checkout
# (host engine) that would be the wrong one; a GIT_DIR that is none gives 00000000.
export GIT_DIR=/nonexistent

# MALLOC: the C library's, not the bundled jemalloc, which takes longer to build than all
# the rest. V: the log shows the commands. USE_SYSTEMD, BUILD_TLS: else what the image
# happens to have decides. PYTHON: else commands.c is made anew where there is a python
# and the times of files say so.
make -C src -j"$JOBS" V=1 MALLOC=libc USE_SYSTEMD=no BUILD_TLS=no PYTHON= all

mkdir -p "$OUT/bin" "$OUT/conf"
for name in redis-server redis-cli redis-benchmark; do
    install -m 755 "src/$name" "$OUT/bin/$name"
done
# One program under four names: it looks at its own.
for name in redis-sentinel redis-check-rdb redis-check-aof; do
    ln -s redis-server "$OUT/bin/$name"
done
install -m 644 redis.conf "$OUT/conf/redis.conf"
