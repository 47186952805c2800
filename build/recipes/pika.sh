#!/bin/sh
# Build pika v3.4.0 from a source tree without .git, or the sample server, which builds in the same way. compile.sh runs
# this in the source folder with OUT, JOBS, PIKAFORGE_ALLOCATOR and PIKAFORGE_ALLOCATOR_DIR, and with the compiler
# wrapper first on PATH.
set -eu

# rocksdb's build_detect_platform reads PORTABLE from the environment only. Without it every object gets -march=native
# (#161, #1719).
export PORTABLE=1

# The Makefile uses tcmalloc if it can link with it, and has no option for that. Only empty values on the command line
# prevent it.
case $PIKAFORGE_ALLOCATOR in
    none)
        tcmalloc_link=
        tcmalloc_define=
        ;;
    system)
        tcmalloc_link=-ltcmalloc
        tcmalloc_define=-DTCMALLOC_EXTENSION
        ;;
    own)
        # -rpath-link is for libunwind, which libtcmalloc needs: the linker does not look for that with -L.
        tcmalloc_link="-L$PIKAFORGE_ALLOCATOR_DIR/lib -Wl,-rpath-link,$PIKAFORGE_ALLOCATOR_DIR/lib -ltcmalloc"
        tcmalloc_define="-DTCMALLOC_EXTENSION -I$PIKAFORGE_ALLOCATOR_DIR/include"
        ;;
    *)
        printf 'recipe: PIKAFORGE_ALLOCATOR is %s, not none, system or own\n' "$PIKAFORGE_ALLOCATOR" >&2
        exit 1
        ;;
esac

# PROCESSOR_NUMS: else the inner make uses as many jobs as the host has CPUs, or without limit. DISABLE_UPDATE_SB: else
# the Makefile calls "git submodule" while make reads it.
run_make() {
    make "$@" \
        DISABLE_UPDATE_SB=1 PROCESSOR_NUMS="$JOBS" \
        TCMALLOC_LDFLAGS="$tcmalloc_link" TCMALLOC_EXTENSION_FLAGS="$tcmalloc_define"
}

# Objects do not depend on the generated headers, so that a parallel build could compile them too early.
run_make proto
run_make -j"$JOBS" all

mkdir -p "$OUT/bin" "$OUT/conf"
install -m 755 output/bin/pika "$OUT/bin/pika"
cp -R output/conf/. "$OUT/conf/"
