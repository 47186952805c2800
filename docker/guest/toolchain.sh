#!/bin/sh
# What compile.sh, bundle.sh and allocator.sh have in common: all read this file with ".". It
# only defines functions; they work on the caller's environment, which the caller
# describes, and fail in its name.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"

need_numbers() {
    case $PIKAFORGE_JOBS$SOURCE_DATE_EPOCH in
        *[!0-9]*) fail 2 "PIKAFORGE_JOBS ($PIKAFORGE_JOBS) and SOURCE_DATE_EPOCH ($SOURCE_DATE_EPOCH) must be numbers" ;;
    esac
}

# need_tools NAME...
need_tools() {
    for tool; do
        need_program "$tool" 'add it to the build image'
    done
}

# Makes PIKAFORGE_ROOT physical and the environment that of a build. The folder
# PIKAFORGE_ROOT/wrap is where make_wrapper will put the wrapper.
prepare_environment() {
    # The physical path, because compilers record that one and the prefix maps must fit.
    PIKAFORGE_ROOT=$(cd "$PIKAFORGE_ROOT" && pwd -P)
    PIKAFORGE_CCACHE=${PIKAFORGE_CCACHE-0}
    export PIKAFORGE_ROOT PIKAFORGE_CCACHE SOURCE_DATE_EPOCH \
        PIKAFORGE_PRODUCT PIKAFORGE_VERSION PIKAFORGE_TARGET_FLAGS PIKAFORGE_FRAME_POINTERS
    # What is built decides, not what happens to be set around it (host engine).
    unset LANGUAGE LANG MAKEFLAGS MFLAGS GNUMAKEFLAGS CFLAGS CXXFLAGS CPPFLAGS LDFLAGS LIBS \
        CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH LD_LIBRARY_PATH LD_RUN_PATH \
        GCC_EXEC_PREFIX COMPILER_PATH DESTDIR CONFIG_SITE CONFIG_SHELL

    # ccache is called by the wrapper, after the flags are in order; ccache in front of
    # it (Debian's /usr/lib/ccache) would be keyed on what the tree asked for.
    path=
    IFS=:
    set -f
    for folder in $PATH; do
        case $folder in
            '' | */ccache | "$PIKAFORGE_ROOT/wrap") ;;
            *) path=$path${path:+:}$folder ;;
        esac
    done
    set +f
    unset IFS
    PATH=$path
    export PATH

    need_tools gcc g++ make ld objcopy strip readelf patchelf ldd awk od mktemp find tar
    [ "$PIKAFORGE_CCACHE" != 1 ] || need_program ccache 'add it to the build image, or set PIKAFORGE_CCACHE=0'
}

# Writes what the compiler is and can do to the folder $1 (compiler.txt, macros.txt),
# and sets what the wrapper must know of it.
ask_compiler() {
    # Target flags are a list on purpose, here and below.
    # shellcheck disable=SC2086
    gcc $PIKAFORGE_TARGET_FLAGS -dM -E -x c /dev/null >"$1/macros.unsorted" ||
        fail 66 "$(gcc --version | sed 1q) cannot make code for: $PIKAFORGE_TARGET_FLAGS"
    sort "$1/macros.unsorted" >"$1/macros.txt"
    rm -f "$1/macros.unsorted"
    {
        gcc --version | sed 1q
        # gcc before 7 does not know -dumpfullversion; since then -dumpversion may be
        # cut down to the major number.
        gcc -dumpfullversion 2>/dev/null || gcc -dumpversion
        ld --version | sed 1q
    } >"$1/compiler.txt"

    if gcc -ffile-prefix-map=/a=/b -fsyntax-only -x c /dev/null 2>/dev/null; then
        PIKAFORGE_MAP_FLAG=-ffile-prefix-map
    else
        # gcc before 8. Known limits: __FILE__ is not mapped, and gcc 4.8 writes the
        # map itself into DW_AT_producer. Neither matters while PIKAFORGE_ROOT is the same
        # for every build, as it is in containers.
        PIKAFORGE_MAP_FLAG=-fdebug-prefix-map
    fi
    export PIKAFORGE_MAP_FLAG
    # gcc before 7 writes the clock into __DATE__, whatever SOURCE_DATE_EPOCH says.
    case $(printf '__DATE__\n' | SOURCE_DATE_EPOCH=0 gcc -E -P -x c -) in
        *1970*) ;;
        *)
            PIKAFORGE_DATE=$(date -u -d "@$SOURCE_DATE_EPOCH" '+%b %e %Y')
            PIKAFORGE_TIME=$(date -u -d "@$SOURCE_DATE_EPOCH" '+%H:%M:%S')
            export PIKAFORGE_DATE PIKAFORGE_TIME
            ;;
    esac
}

# Puts the compiler wrapper into PIKAFORGE_ROOT/wrap, first on PATH.
make_wrapper() {
    wrap=$PIKAFORGE_ROOT/wrap
    rm -rf "$wrap"
    mkdir "$wrap"
    # A copy, which is also the marker by which the wrapper knows its own folder: the
    # scripts may have come here without their x bits.
    cp "$PIKAFORGE_ROOT/guest/cc" "$wrap/.forge-wrapper"
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
    [ -e "$wrap/cc" ] || note 'this image has no cc'
    PIKAFORGE_DROPPED=$wrap/.dropped
    PIKAFORGE_ASKED=$wrap/.asked
    : >"$PIKAFORGE_DROPPED"
    mkdir "$PIKAFORGE_ASKED"
    PATH=$wrap:$PATH
    CC=gcc
    CXX=g++
    export PIKAFORGE_DROPPED PIKAFORGE_ASKED PATH CC CXX

    if [ "$PIKAFORGE_CCACHE" = 1 ]; then
        # The content of the driver names the compiler: image time stamps mean nothing.
        export CCACHE_COMPILERCHECK=content
        # Neither CCACHE_BASEDIR nor CCACHE_NOHASHDIR: the first makes names relative and
        # so gives __FILE__ other texts than a build without ccache (tried: other
        # bytes), the second returns objects with the folder of another unit in their
        # debug information (tried). ccache applies our prefix maps to the working
        # folder by itself, so a tree that uses relative names hits from any PIKAFORGE_ROOT.
        unset CCACHE_BASEDIR CCACHE_NOHASHDIR CCACHE_PREFIX CCACHE_SLOPPINESS
        # The driver's content does not change with specs.sh, so the specs count too.
        specs=$(dirname "$(PIKAFORGE_WRAPPER=off gcc -print-libgcc-file-name)")/specs
        [ ! -r "$specs" ] || export CCACHE_EXTRAFILES="$specs"
    fi
}

# Prints what the wrapper dropped: count, tab, flag.
dropped_flags() {
    sort "$PIKAFORGE_DROPPED" | uniq -c | sed "s/^ *\\([0-9][0-9]*\\) \\(.*\\)\$/\\1$tab\\2/"
}

# Class, byte order, type and machine of an ELF file; nothing for other files.
elf_head() {
    # shellcheck disable=SC2046
    set -- $(od -An -v -tx1 -N20 "$1" | tr '\n' ' ')
    if [ $# -eq 20 ] && [ "$1$2$3$4" = 7f454c46 ]; then
        printf '%s\n' "$5 $6 ${17}${18} ${19}${20}"
    fi
}

# Class, byte order and machine of this container's programs.
machine_here() {
    # od reads its own program here.
    # shellcheck disable=SC2046
    set -- $(elf_head /proc/self/exe)
    printf '%s\n' "$1 $2 $4"
}

# Lists the programs and shared objects below the folder $1 that are for this machine,
# one a line. Others are data to us (a boot loader, a test file).
list_elves() {
    here=$(machine_here)
    find "$1" -type f | sort | while IFS= read -r file; do
        # shellcheck disable=SC2046
        set -- $(elf_head "$file")
        [ $# -eq 4 ] || continue
        [ "$1 $2 $4" = "$here" ] || continue
        case $3 in
            0200 | 0300 | 0002 | 0003) printf '%s\n' "$file" ;;
        esac
    done
}

# Prints the sonames that the file $1 needs, one a line.
needed_of() {
    readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p'
}

# Prints "package<TAB>version" of the package that brought the file $1.
package_of() {
    real=$(readlink -f "$1")
    # With merged /usr the loader and the package may name the same file differently.
    for path in "$real" "$1" "${real#/usr}" "/usr$real"; do
        if command -v dpkg-query >/dev/null 2>&1; then
            owner=$(dpkg-query -S "$path" 2>/dev/null | sed -n '/^diversion /d; s/[,:].*//p' | sed 1q)
            if [ -n "$owner" ]; then
                dpkg-query -W -f '${Package}\t${Version}\n' "$owner" | sed 1q
                return 0
            fi
        fi
        if command -v rpm >/dev/null 2>&1; then
            # rpm prints its complaint on the output stream: only the status tells.
            if owner=$(rpm -qf --qf '%{NAME}\t%{VERSION}-%{RELEASE}\n' "$path" 2>/dev/null); then
                printf '%s\n' "$owner" | sed 1q
                return 0
            fi
        fi
    done
    printf 'unknown\t-\n'
}

# Moves the debug information of everything below the folder $1 to the folder $2, as
# PATH.debug. From here on the real tools run, and no compiler.
#
# .symtab stays in the file: the audit needs the names and ranges of functions. What
# has no debug information (libraries of the base system) is not touched.
separate_debug() {
    tree=$1
    apart=$2
    list_elves "$tree" | while IFS= read -r file; do
        case $(readelf -SW "$file") in
            *' .debug_info'* | *' .zdebug_info'*) ;;
            *) continue ;;
        esac
        debug=$apart/${file#"$tree/"}.debug
        mkdir -p "${debug%/*}"
        objcopy --only-keep-debug "$file" "$debug"
        chmod 644 "$debug"
        strip --strip-debug "$file"
        # The link holds the name without its folder, and the checksum.
        objcopy --add-gnu-debuglink="$debug" "$file"
    done
}
