#!/bin/sh
# Functions that compile.sh, bundle.sh and allocator.sh share; they read this file with ".". The functions use the
# variables that these scripts describe.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"

# Fail with 2 unless the numbers of the environment are numbers.
need_numbers() {
    case $PIKAFORGE_JOBS$SOURCE_DATE_EPOCH in
        *[!0-9]*)
            fail 2 "PIKAFORGE_JOBS ($PIKAFORGE_JOBS) and SOURCE_DATE_EPOCH ($SOURCE_DATE_EPOCH) must be numbers"
            ;;
    esac
}

# Fail with 66 unless these programs are installed.
need_tools() { # NAME...
    for tool; do
        need_program "$tool" 'add it to the build image'
    done
}

# Unpack the inputs that the caller of the job has left packed: unpack/NAME.tar goes to the folder NAME.
unpack_inputs() {
    for packed in "$PIKAFORGE_ROOT"/unpack/*.tar; do
        [ -f "$packed" ] || continue
        folder=${packed##*/}
        folder=$PIKAFORGE_ROOT/${folder%.tar}
        mkdir -p "$folder"
        tar --extract --preserve-permissions --file "$packed" --directory "$folder"
        rm -f "$packed"
    done
}

# Make the environment that of a build, and PIKAFORGE_ROOT a path without links. make_wrapper puts the wrapper into the
# folder PIKAFORGE_ROOT/wrap later.
prepare_environment() {
    # Compilers record paths without links, and the prefix maps must fit these.
    PIKAFORGE_ROOT=$(cd "$PIKAFORGE_ROOT" && pwd -P)
    PIKAFORGE_CCACHE=${PIKAFORGE_CCACHE-0}
    export PIKAFORGE_ROOT PIKAFORGE_CCACHE SOURCE_DATE_EPOCH \
        PIKAFORGE_PRODUCT PIKAFORGE_VERSION PIKAFORGE_TARGET_FLAGS PIKAFORGE_FRAME_POINTERS
    # What is set on this machine must not change the build (host engine).
    unset LANGUAGE LANG MAKEFLAGS MFLAGS GNUMAKEFLAGS CFLAGS CXXFLAGS CPPFLAGS LDFLAGS LIBS \
        CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH LD_LIBRARY_PATH LD_RUN_PATH \
        GCC_EXEC_PREFIX COMPILER_PATH DESTDIR CONFIG_SITE CONFIG_SHELL

    # The wrapper calls ccache with the flags that count. A ccache before the wrapper (Debian's /usr/lib/ccache) would
    # use the flags of the tree for its keys.
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

# Write version and macros of the compiler to the folder $1 (compiler.txt, macros.txt), and set the variables that tell
# the wrapper what it can do.
ask_compiler() {
    # The target flags are a list on purpose, here and below.
    # shellcheck disable=SC2086
    gcc $PIKAFORGE_TARGET_FLAGS -dM -E -x c /dev/null >"$1/macros.unsorted" ||
        fail 66 "$(gcc --version | sed 1q) cannot make code for: $PIKAFORGE_TARGET_FLAGS"
    sort "$1/macros.unsorted" >"$1/macros.txt"
    rm -f "$1/macros.unsorted"
    {
        gcc --version | sed 1q
        # gcc before 7 does not know -dumpfullversion; since then -dumpversion may print the major number only.
        gcc -dumpfullversion 2>/dev/null || gcc -dumpversion
        ld --version | sed 1q
    } >"$1/compiler.txt"

    if gcc -ffile-prefix-map=/a=/b -fsyntax-only -x c /dev/null 2>/dev/null; then
        PIKAFORGE_MAP_FLAG=-ffile-prefix-map
    else
        # gcc before 8. Known limits: __FILE__ is not mapped, and gcc 4.8 writes the map itself into DW_AT_producer.
        # Neither matters while PIKAFORGE_ROOT is the same for every build, as it is in containers.
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

# Put the compiler wrapper into PIKAFORGE_ROOT/wrap under the names of all compilers, and that folder first on PATH.
make_wrapper() {
    wrap=$PIKAFORGE_ROOT/wrap
    rm -rf "$wrap"
    mkdir "$wrap"
    # A copy, because the script may have come here without its x bits. By the name of the copy, the wrapper knows its
    # own folder.
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
    [ "$PIKAFORGE_CCACHE" != 1 ] || configure_ccache
}

# Set what decides about hits of ccache.
configure_ccache() {
    # The content of the driver identifies the compiler; its time in an image means nothing.
    export CCACHE_COMPILERCHECK=content
    # Not the ccache.conf in the folder of the cache, in which an earlier build may have left one: it can name programs
    # and other caches. The job cannot change this file.
    CCACHE_CONFIGPATH=$PIKAFORGE_ROOT/guest/ccache.conf
    [ -r "$CCACHE_CONFIGPATH" ] || fail 2 "$CCACHE_CONFIGPATH does not exist"
    export CCACHE_CONFIGPATH
    # Neither CCACHE_BASEDIR nor CCACHE_NOHASHDIR. The first makes names relative, and so gives __FILE__ other texts
    # than a build without ccache has (tried: other bytes). The second returns objects with the folder of another unit
    # in their debug information (tried). ccache applies the prefix maps to the working folder itself, so that a tree
    # with relative names hits from any PIKAFORGE_ROOT. All other variables of ccache are taken away, too.
    for variable in $(env | sed -n 's/^\(CCACHE_[A-Z0-9_]*\)=.*/\1/p'); do
        case $variable in
            CCACHE_DIR | CCACHE_COMPILERCHECK | CCACHE_CONFIGPATH) ;;
            *) unset "$variable" ;;
        esac
    done
    # Not in the folder of the cache, nor in one that others can write to: hashes of files by their inodes are kept
    # there, and mean nothing in another job. They save a third of the time of a hit. ccache before 4.7 does not keep
    # its hands off files that have just been written.
    CCACHE_TEMPDIR=$PIKAFORGE_ROOT/wrap/.ccache
    export CCACHE_TEMPDIR
    case $(ccache --version | sed -n '1s/^ccache version //p') in
        4.[7-9]* | 4.[1-9][0-9]* | [5-9].*) export CCACHE_INODECACHE=1 ;;
        *) export CCACHE_NOINODECACHE=1 ;;
    esac
    # specs.sh does not change the content of the driver, so the specs file has to count as well.
    specs=$(dirname "$(PIKAFORGE_WRAPPER=off gcc -print-libgcc-file-name)")/specs
    [ ! -r "$specs" ] || export CCACHE_EXTRAFILES="$specs"
}

# Fail if something below the folder $1 is no file, folder or link, or has a set-user-ID, set-group-ID or sticky bit.
# Later steps would drop that in silence: tar has no sockets, and strip makes new files.
check_kinds() {
    odd=$(find "$1" \( ! -type f ! -type d ! -type l \) -printf '%M %P\n' -o ! -type l -perm /7000 -printf '%M %P\n')
    [ -z "$odd" ] || fail 65 "only files, folders and links without special bits can be packed, but there is" \
        "$(printf '%s\n' "$odd" | sed -n 1,10p | tr '\n\t' '; ')"
}

# Print what the wrapper dropped: count, tab, flag.
dropped_flags() {
    sort "$PIKAFORGE_DROPPED" | uniq -c | sed "s/^ *\\([0-9][0-9]*\\) \\(.*\\)\$/\\1$tab\\2/"
}

# Print class, byte order, type and machine of the ELF file $1; nothing for other files.
elf_head() {
    # shellcheck disable=SC2046
    set -- $(od -An -v -tx1 -N20 "$1" | tr '\n' ' ')
    if [ $# -eq 20 ] && [ "$1$2$3$4" = 7f454c46 ]; then
        printf '%s\n' "$5 $6 ${17}${18} ${19}${20}"
    fi
}

# Print class, byte order and machine of the programs of this container.
machine_here() {
    # /proc/self/exe is the program od here.
    # shellcheck disable=SC2046
    set -- $(elf_head /proc/self/exe)
    printf '%s\n' "$1 $2 $4"
}

# List the programs and shared objects below the folder $1 that are for this machine, one a line. Others are data (a
# boot loader, a test file).
list_elves() {
    here=$(machine_here)
    # Only those that have the letters somewhere are looked at one by one, because each look is a fork.
    find "$1" -type f -exec grep -laF "$(printf '\177ELF')" {} + | sort | while IFS= read -r file; do
        # shellcheck disable=SC2046
        set -- $(elf_head "$file")
        [ $# -eq 4 ] || continue
        [ "$1 $2 $4" = "$here" ] || continue
        case $3 in
            0200 | 0300 | 0002 | 0003) printf '%s\n' "$file" ;;
        esac
    done
}

# Print the sonames that the file $1 needs, one a line.
needed_of() {
    readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p'
}

# Print "package<TAB>version" of the package that brought the file $1; "unknown<TAB>-" if there is none.
package_of() {
    real=$(readlink -f "$1")
    # Where /bin, /lib and so on are links into /usr, the loader and the package may name one file differently.
    for path in "$real" "$1" "${real#/usr}" "/usr$real"; do
        if command -v dpkg-query >/dev/null 2>&1; then
            owner=$(dpkg-query -S "$path" 2>/dev/null | sed -n '/^diversion /d; s/[,:].*//p' | sed 1q)
            if [ -n "$owner" ]; then
                dpkg-query -W -f '${Package}\t${Version}\n' "$owner" | sed 1q
                return 0
            fi
        fi
        if command -v rpm >/dev/null 2>&1; then
            # rpm prints errors to standard output: only the status says whether it is one.
            if owner=$(rpm_query -qf --qf '%{NAME}\t%{VERSION}-%{RELEASE}\n' "$path" 2>/dev/null); then
                printf '%s\n' "$owner" | sed 1q
                return 0
            fi
        fi
    done
    printf 'unknown\t-\n'
}

# Move the debug information of every ELF file below the folder $1 to the folder $2, as PATH.debug.
#
# .symtab stays in the file, because the audit needs the names and ranges of functions. Files without debug information
# (libraries of the distribution) are not changed.
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
        # The link holds the name without its folder, and a checksum.
        objcopy --add-gnu-debuglink="$debug" "$file"
    done
}

# Take the executable bits, which linkers set, from the shared libraries below the folder $1: nobody calls them as
# programs (Debian Policy 10.2). Those that name a loader can be called, as libc.so.6 can.
plain_libraries() {
    list_elves "$1" | while IFS= read -r file; do
        case ${file##*/} in
            *.so | *.so.*) ;;
            *) continue ;;
        esac
        # A shared object without a loader. A static program is none.
        case $(readelf -hlW "$file") in
            *INTERP*) ;;
            *' DYN '*) chmod 644 "$file" ;;
        esac
    done
}
