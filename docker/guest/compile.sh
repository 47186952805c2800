#!/bin/sh
# Builds one product in the build image: compiler wrapper, recipe, libraries, debug
# information, facts for the audit. The caller decides everything by environment:
#
#   FORGE_ROOT            folder with src/ guest/ recipe.sh; gets out/ and wrap/
#   FORGE_PRODUCT FORGE_VERSION
#   FORGE_TARGET_FLAGS    such as "-march=sandybridge -mtune=sandybridge"
#   FORGE_FRAME_POINTERS  0 or 1
#   FORGE_ALLOCATOR       none, system or own; FORGE_ALLOCATOR_DIR with own
#   FORGE_JOBS            number of parallel jobs
#   FORGE_BINARIES FORGE_FILES
#                         paths below the tree that must exist, separated by spaces
#   FORGE_BASE_LIBS       see bundle.sh
#   FORGE_CCACHE          0 or 1; CCACHE_DIR is then the caller's choice
#   SOURCE_DATE_EPOCH     seconds
# Results in FORGE_ROOT/out:
#   tree/                 what the product is
#   debug/PATH.debug      debug information of tree/PATH
#   facts/dropped.tsv     count, flag: what the tree asked for and did not get
#   facts/bundled.tsv     soname, path in the tree, package, version
#   facts/compiler.txt    version line, version number, linker's version line
#   facts/macros.txt      predefined macros with the target's flags, sorted
# Exit status: 0 done; 2 the environment is wrong; 64 the recipe failed, its output
# tells; 65 the tree lacks something; 66 the build image lacks something.
set -eu
umask 022

fail() {
    printf 'compile.sh: %s\n' "$2" >&2
    exit "$1"
}

missing=
[ -n "${FORGE_ROOT-}" ] || missing="$missing FORGE_ROOT"
[ -n "${FORGE_PRODUCT-}" ] || missing="$missing FORGE_PRODUCT"
[ -n "${FORGE_VERSION-}" ] || missing="$missing FORGE_VERSION"
[ -n "${FORGE_TARGET_FLAGS-}" ] || missing="$missing FORGE_TARGET_FLAGS"
[ -n "${FORGE_FRAME_POINTERS-}" ] || missing="$missing FORGE_FRAME_POINTERS"
[ -n "${FORGE_ALLOCATOR-}" ] || missing="$missing FORGE_ALLOCATOR"
[ -n "${FORGE_JOBS-}" ] || missing="$missing FORGE_JOBS"
[ -n "${FORGE_BINARIES-}" ] || missing="$missing FORGE_BINARIES"
[ -n "${FORGE_BASE_LIBS-}" ] || missing="$missing FORGE_BASE_LIBS"
[ -n "${SOURCE_DATE_EPOCH-}" ] || missing="$missing SOURCE_DATE_EPOCH"
[ -z "$missing" ] || fail 2 "not set:$missing"
case $FORGE_JOBS$SOURCE_DATE_EPOCH in
    *[!0-9]*) fail 2 "FORGE_JOBS ($FORGE_JOBS) and SOURCE_DATE_EPOCH ($SOURCE_DATE_EPOCH) must be numbers" ;;
esac
case $FORGE_ALLOCATOR in
    none | system) ;;
    own) [ -d "${FORGE_ALLOCATOR_DIR:-/nowhere}/lib" ] || fail 2 "FORGE_ALLOCATOR_DIR (${FORGE_ALLOCATOR_DIR-}) has no lib/" ;;
    *) fail 2 "FORGE_ALLOCATOR is $FORGE_ALLOCATOR, not none, system or own" ;;
esac
[ -d "$FORGE_ROOT/src" ] || fail 2 "$FORGE_ROOT/src does not exist"
[ -r "$FORGE_ROOT/recipe.sh" ] || fail 2 "$FORGE_ROOT/recipe.sh does not exist"

# The physical path, because compilers record that one and the prefix maps must fit.
FORGE_ROOT=$(cd "$FORGE_ROOT" && pwd -P)
LC_ALL=C
TZ=UTC
export FORGE_ROOT LC_ALL TZ SOURCE_DATE_EPOCH \
    FORGE_PRODUCT FORGE_VERSION FORGE_TARGET_FLAGS FORGE_FRAME_POINTERS \
    FORGE_ALLOCATOR FORGE_BASE_LIBS
export FORGE_ALLOCATOR_DIR="${FORGE_ALLOCATOR_DIR-}" FORGE_CCACHE="${FORGE_CCACHE-0}"
# The recipe decides, not what happens to be set around it (host engine).
unset LANGUAGE LANG MAKEFLAGS MFLAGS GNUMAKEFLAGS CFLAGS CXXFLAGS CPPFLAGS LDFLAGS \
    CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH LD_LIBRARY_PATH LD_RUN_PATH \
    GCC_EXEC_PREFIX COMPILER_PATH DESTDIR FORGE_EXTRA_CFLAGS FORGE_EXTRA_CXXFLAGS
guest=$FORGE_ROOT/guest
wrap=$FORGE_ROOT/wrap
out=$FORGE_ROOT/out
tree=$out/tree
facts=$out/facts

# ccache is called by the wrapper, after the flags are in order; ccache in front of
# it (Debian's /usr/lib/ccache) would be keyed on what the tree asked for.
path=
IFS=:
set -f
for folder in $PATH; do
    case $folder in
        '' | */ccache | "$wrap") ;;
        *) path=$path${path:+:}$folder ;;
    esac
done
set +f
unset IFS
PATH=$path
export PATH

for tool in gcc g++ make ld objcopy strip readelf patchelf ldd awk od mktemp; do
    command -v "$tool" >/dev/null 2>&1 || fail 66 "$tool is not installed: add it to the build image"
done
[ "$FORGE_CCACHE" != 1 ] || command -v ccache >/dev/null 2>&1 ||
    fail 66 'ccache is not installed: add it to the build image, or set FORGE_CCACHE=0'

rm -rf "$out" "$wrap"
mkdir -p "$tree" "$out/debug" "$facts" "$wrap"

# --- what the compiler is and can do ---------------------------------------------
# Target flags are a list on purpose, here and below.
# shellcheck disable=SC2086
gcc $FORGE_TARGET_FLAGS -dM -E -x c /dev/null >"$facts/macros.unsorted" ||
    fail 66 "$(gcc --version | sed 1q) cannot make code for: $FORGE_TARGET_FLAGS"
sort "$facts/macros.unsorted" >"$facts/macros.txt"
rm -f "$facts/macros.unsorted"
{
    gcc --version | sed 1q
    # gcc before 7 does not know -dumpfullversion; since then -dumpversion may be
    # cut down to the major number.
    gcc -dumpfullversion 2>/dev/null || gcc -dumpversion
    ld --version | sed 1q
} >"$facts/compiler.txt"

if gcc -ffile-prefix-map=/a=/b -fsyntax-only -x c /dev/null 2>/dev/null; then
    FORGE_MAP_FLAG=-ffile-prefix-map
else
    # gcc before 8. Known limits: __FILE__ is not mapped, and gcc 4.8 writes the
    # map itself into DW_AT_producer. Neither matters while FORGE_ROOT is the same
    # for every build, as it is in containers.
    FORGE_MAP_FLAG=-fdebug-prefix-map
fi
export FORGE_MAP_FLAG
# gcc before 7 writes the clock into __DATE__, whatever SOURCE_DATE_EPOCH says.
case $(printf '__DATE__\n' | SOURCE_DATE_EPOCH=0 gcc -E -P -x c -) in
    *1970*) ;;
    *)
        FORGE_DATE=$(date -u -d "@$SOURCE_DATE_EPOCH" '+%b %e %Y')
        FORGE_TIME=$(date -u -d "@$SOURCE_DATE_EPOCH" '+%H:%M:%S')
        export FORGE_DATE FORGE_TIME
        ;;
esac

# --- the wrapper -------------------------------------------------------------------
# A copy, which is also the marker by which the wrapper knows its own folder: the
# scripts may have come here without their x bits.
cp "$guest/cc" "$wrap/.forge-wrapper"
chmod 755 "$wrap/.forge-wrapper"
triplet=$(gcc -dumpmachine)
IFS=:
for folder in $PATH; do
    for file in "$folder"/gcc "$folder"/g++ "$folder"/cc "$folder"/c++ \
        "$folder"/c89 "$folder"/c99 "$folder"/gcc-[0-9]* "$folder"/g++-[0-9]* \
        "$folder/$triplet"-gcc "$folder/$triplet"-g++ "$folder/$triplet"-c++ \
        "$folder/$triplet"-gcc-[0-9]* "$folder/$triplet"-g++-[0-9]* \
        "$folder"/*-redhat-linux-gcc "$folder"/*-redhat-linux-g++ \
        "$folder"/*-redhat-linux-c++; do
        [ ! -x "$file" ] || ln -sf .forge-wrapper "$wrap/${file##*/}"
    done
done
unset IFS
# A tree may ask for cc where the image has gcc only.
[ -e "$wrap/cc" ] || printf 'compile.sh: note: this image has no cc\n' >&2
FORGE_DROPPED=$wrap/.dropped
: >"$FORGE_DROPPED"
PATH=$wrap:$PATH
CC=gcc
CXX=g++
export FORGE_DROPPED PATH CC CXX

if [ "$FORGE_CCACHE" = 1 ]; then
    # The content of the driver names the compiler: image time stamps mean nothing.
    export CCACHE_COMPILERCHECK=content
    # Neither CCACHE_BASEDIR nor CCACHE_NOHASHDIR: the first makes names relative and
    # so gives __FILE__ other texts than a build without ccache (tried: other
    # bytes), the second returns objects with the folder of another unit in their
    # debug information (tried). ccache applies our prefix maps to the working
    # folder by itself, so a tree that uses relative names hits from any FORGE_ROOT.
    unset CCACHE_BASEDIR CCACHE_NOHASHDIR CCACHE_PREFIX CCACHE_SLOPPINESS
    # The driver's content does not change with specs.sh, so the specs count too.
    specs=$(dirname "$(FORGE_WRAPPER=off gcc -print-libgcc-file-name)")/specs
    [ ! -r "$specs" ] || export CCACHE_EXTRAFILES="$specs"
fi

# --- the recipe --------------------------------------------------------------------
status=0
(
    cd "$FORGE_ROOT/src"
    OUT=$tree
    JOBS=$FORGE_JOBS
    export OUT JOBS
    exec sh "$FORGE_ROOT/recipe.sh"
) || status=$?
[ "$status" -eq 0 ] || exit 64

sort "$FORGE_DROPPED" | uniq -c |
    sed 's/^ *\([0-9][0-9]*\) \(.*\)$/\1	\2/' >"$facts/dropped.tsv"

# --- what the recipe owed us -------------------------------------------------------
# Class, byte order, type and machine of an ELF file; nothing for other files.
elf_head() {
    # shellcheck disable=SC2046
    set -- $(od -An -v -tx1 -N20 "$1" | tr '\n' ' ')
    if [ $# -eq 20 ] && [ "$1$2$3$4" = 7f454c46 ]; then
        printf '%s\n' "$5 $6 ${17}${18} ${19}${20}"
    fi
}
# od reads its own program here: the machine that this container runs.
# shellcheck disable=SC2046
set -- $(elf_head /proc/self/exe)
own_machine="$1 $2 $4"

set -f
for name in $FORGE_BINARIES; do
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
for name in ${FORGE_FILES-}; do
    [ -e "$tree/$name" ] || fail 65 "the recipe made no $name"
done
set +f

# --- libraries, debug information, run paths, in this order: see bundle.sh ---------
# From here on no compiler runs; the real tools do.
sh "$guest/bundle.sh" copy

# .symtab stays in the file: the audit needs the names and ranges of functions. What
# has no debug information (libraries of the base system) is not touched.
find "$tree" -type f | sort | while IFS= read -r file; do
    # shellcheck disable=SC2046
    set -- $(elf_head "$file")
    [ $# -eq 4 ] || continue
    [ "$1 $2 $4" = "$own_machine" ] || continue
    case $3 in
        0200 | 0300 | 0002 | 0003) ;;
        *) continue ;;
    esac
    case $(readelf -SW "$file") in
        *' .debug_info'* | *' .zdebug_info'*) ;;
        *) continue ;;
    esac
    debug=$out/debug/${file#"$tree/"}.debug
    mkdir -p "${debug%/*}"
    objcopy --only-keep-debug "$file" "$debug"
    chmod 644 "$debug"
    strip --strip-debug "$file"
    # The link holds the name without its folder, and the checksum.
    objcopy --add-gnu-debuglink="$debug" "$file"
done

sh "$guest/bundle.sh" link

find "$tree" "$out/debug" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
