#!/bin/sh
# Build a product in the build image: run the recipe with the compiler wrapper, copy the libraries, separate the debug
# information, write facts for the audit. Everything comes by environment variables:
#
#   PIKAFORGE_ROOT            folder with src/, guest/ and recipe.sh; out/ and wrap/ are made in it
#   PIKAFORGE_PRODUCT         name of the product
#   PIKAFORGE_VERSION         its version
#   PIKAFORGE_TARGET_FLAGS    such as "-march=sandybridge -mtune=sandybridge"
#   PIKAFORGE_FRAME_POINTERS  0 or 1
#   PIKAFORGE_ALLOCATOR       none, system or own
#   PIKAFORGE_ALLOCATOR_DIR   with own: the prefix of the allocator
#   PIKAFORGE_JOBS            number of parallel jobs
#   PIKAFORGE_BINARIES        paths below the tree that must be ELF files, separated by spaces
#   PIKAFORGE_FILES           further paths below the tree that must exist
#   PIKAFORGE_BASE_LIBS       see bundle.sh
#   PIKAFORGE_CCACHE          0 or 1; CCACHE_DIR is the caller's choice then
#   PIKAFORGE_EXTRA_CFLAGS    see cc; may be absent, as the next two
#   PIKAFORGE_EXTRA_CXXFLAGS
#   PIKAFORGE_KEEP_WERROR
#   SOURCE_DATE_EPOCH         seconds
# licences.sh reads one more.
#
# The recipe runs in src/ with the same variables, with OUT (the folder for the tree) and JOBS, and with the compiler
# wrapper first on PATH.
# Results in PIKAFORGE_ROOT/out:
#   tree/                 what the recipe left, lib/ and licenses/
#   debug/PATH.debug      debug information of tree/PATH
#   facts/dropped.tsv     count, flag: what the tree asked for and did not get
#   facts/bundled.tsv     soname, path in the tree, package, version, SHA-256 of the file as the image has it
#   facts/licences.tsv    see licences.sh
#   facts/compiler.txt    version line and version number of the compiler, version line of the linker
#   facts/macros.txt      predefined macros with the target's flags, sorted
# Exit status: 0 done; 2 the environment is wrong; 64 the recipe failed, and its output says why; 65 the tree lacks
# something; 66 the build image lacks something.
set -eu
# shellcheck source=toolchain.sh
. "${0%/*}/toolchain.sh"

need_set PIKAFORGE_ROOT PIKAFORGE_PRODUCT PIKAFORGE_VERSION PIKAFORGE_TARGET_FLAGS PIKAFORGE_FRAME_POINTERS \
    PIKAFORGE_ALLOCATOR PIKAFORGE_JOBS PIKAFORGE_BINARIES PIKAFORGE_BASE_LIBS SOURCE_DATE_EPOCH
need_numbers
# Beside the questions to the compiler.
unpack_inputs &
unpacking=$!
prepare_environment
export PIKAFORGE_ALLOCATOR PIKAFORGE_BASE_LIBS PIKAFORGE_ALLOCATOR_DIR="${PIKAFORGE_ALLOCATOR_DIR-}"
guest=$PIKAFORGE_ROOT/guest
out=$PIKAFORGE_ROOT/out
tree=$out/tree
facts=$out/facts
rm -rf "$out"
mkdir -p "$tree" "$out/debug" "$facts"
ask_compiler "$facts"
make_wrapper
wait "$unpacking" || fail 2 'the source cannot be unpacked'

case $PIKAFORGE_ALLOCATOR in
    none | system) ;;
    own)
        [ -d "${PIKAFORGE_ALLOCATOR_DIR:-/nowhere}/lib" ] ||
            fail 2 "PIKAFORGE_ALLOCATOR_DIR (${PIKAFORGE_ALLOCATOR_DIR-}) has no lib/"
        ;;
    *) fail 2 "PIKAFORGE_ALLOCATOR is $PIKAFORGE_ALLOCATOR, not none, system or own" ;;
esac
[ -d "$PIKAFORGE_ROOT/src" ] || fail 2 "$PIKAFORGE_ROOT/src does not exist"
[ -r "$PIKAFORGE_ROOT/recipe.sh" ] || fail 2 "$PIKAFORGE_ROOT/recipe.sh does not exist"
sh "$guest/licences.sh" source

# ---- the recipe

# Set the names that these variables had before all names began with PIKAFORGE_, for recipes that read them. The tool
# reports such recipes (pipeline/recipe.py).
set_old_names() {
    FORGE_ROOT=$PIKAFORGE_ROOT
    FORGE_PRODUCT=$PIKAFORGE_PRODUCT
    FORGE_VERSION=$PIKAFORGE_VERSION
    FORGE_TARGET_FLAGS=$PIKAFORGE_TARGET_FLAGS
    FORGE_FRAME_POINTERS=$PIKAFORGE_FRAME_POINTERS
    FORGE_ALLOCATOR=$PIKAFORGE_ALLOCATOR
    FORGE_ALLOCATOR_DIR=$PIKAFORGE_ALLOCATOR_DIR
    FORGE_JOBS=$PIKAFORGE_JOBS
    FORGE_BINARIES=$PIKAFORGE_BINARIES
    FORGE_FILES=${PIKAFORGE_FILES-}
    FORGE_BASE_LIBS=$PIKAFORGE_BASE_LIBS
    FORGE_CCACHE=$PIKAFORGE_CCACHE
    FORGE_EXTRA_CFLAGS=${PIKAFORGE_EXTRA_CFLAGS-}
    FORGE_EXTRA_CXXFLAGS=${PIKAFORGE_EXTRA_CXXFLAGS-}
    FORGE_KEEP_WERROR=${PIKAFORGE_KEEP_WERROR-0}
    export FORGE_ROOT FORGE_PRODUCT FORGE_VERSION FORGE_TARGET_FLAGS FORGE_FRAME_POINTERS FORGE_ALLOCATOR \
        FORGE_ALLOCATOR_DIR FORGE_JOBS FORGE_BINARIES FORGE_FILES FORGE_BASE_LIBS FORGE_CCACHE FORGE_EXTRA_CFLAGS \
        FORGE_EXTRA_CXXFLAGS FORGE_KEEP_WERROR
}

status=0
(
    cd "$PIKAFORGE_ROOT/src"
    OUT=$tree
    JOBS=$PIKAFORGE_JOBS
    export OUT JOBS
    set_old_names
    exec sh "$PIKAFORGE_ROOT/recipe.sh"
) || status=$?
[ "$status" -eq 0 ] || exit 64

dropped_flags >"$facts/dropped.tsv"
check_kinds "$tree"

# ---- what the recipe has to leave

own_machine=$(machine_here)
set -f
for name in $PIKAFORGE_BINARIES; do
    file=$tree/$name
    [ -e "$file" ] || fail 65 "the recipe made no $name"
    [ -f "$file" ] || fail 65 "$name is not a regular file"
    # shellcheck disable=SC2046
    set -- $(elf_head "$file")
    [ $# -eq 4 ] || fail 65 "$name is not an ELF file (is it a script?)"
    [ "$1 $2 $4" = "$own_machine" ] ||
        fail 65 "$name is an ELF file for another machine: class, order, machine $1 $2 $4, not $own_machine"
    case $3 in
        0200 | 0300 | 0002 | 0003) ;;
        *) fail 65 "$name is an ELF file, but neither a program nor a shared object" ;;
    esac
done
for name in ${PIKAFORGE_FILES-}; do
    [ -e "$tree/$name" ] || fail 65 "the recipe made no $name"
done
set +f

# ---- libraries, licences, debug information, run paths, in this order: see bundle.sh

sh "$guest/bundle.sh" copy
sh "$guest/licences.sh" packages
separate_debug "$tree" "$out/debug"
sh "$guest/bundle.sh" link
plain_libraries "$tree"

find "$tree" "$out/debug" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
