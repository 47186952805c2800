#!/bin/sh
# Builds pika v3.4.0 from a source tree without .git (and the sample server, which
# is made to build in the same way). compile.sh calls it in the source folder with
#   OUT JOBS PIKAFORGE_ALLOCATOR PIKAFORGE_ALLOCATOR_DIR
# and with the compiler wrapper first on PATH.
set -eu

# rocksdb's build_detect_platform reads PORTABLE from the environment only; without
# it every object gets -march=native (#161, #1719).
export PORTABLE=1

# The Makefile takes tcmalloc when a test link finds it, and has no switch. Empty
# values on the command line are the only way to say no.
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
        # -rpath-link: for libunwind, which libtcmalloc needs; -L does not serve that.
        tcmalloc_link="-L$PIKAFORGE_ALLOCATOR_DIR/lib -Wl,-rpath-link,$PIKAFORGE_ALLOCATOR_DIR/lib -ltcmalloc"
        tcmalloc_define="-DTCMALLOC_EXTENSION -I$PIKAFORGE_ALLOCATOR_DIR/include"
        ;;
    *)
        printf 'recipe: PIKAFORGE_ALLOCATOR is %s, not none, system or own\n' "$PIKAFORGE_ALLOCATOR" >&2
        exit 1
        ;;
esac

# PROCESSOR_NUMS: else the inner make takes the host's count, or none (unlimited).
# DISABLE_UPDATE_SB: the Makefile calls "git submodule" while it is read.
run_make() {
    make "$@" \
        DISABLE_UPDATE_SB=1 PROCESSOR_NUMS="$JOBS" \
        TCMALLOC_LDFLAGS="$tcmalloc_link" TCMALLOC_EXTENSION_FLAGS="$tcmalloc_define"
}

# Objects do not depend on the generated headers, so a parallel build may be early.
run_make proto
run_make -j"$JOBS" all

mkdir -p "$OUT/bin" "$OUT/conf"
install -m 755 output/bin/pika "$OUT/bin/pika"
cp -R output/conf/. "$OUT/conf/"
