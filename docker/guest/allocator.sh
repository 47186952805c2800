#!/bin/sh
# Builds gperftools for a target in the build image, with one of the two ways in which
# it can walk the stack, and proves which one it is. The caller decides by environment:
#
#   PIKAFORGE_ROOT          folder with guest/, src/ (gperftools) and perhaps libunwind/;
#                       gets out/, stage/ and wrap/
#   PIKAFORGE_UNWINDER      libunwind or frame-pointers
#   PIKAFORGE_PRODUCT PIKAFORGE_VERSION
#                       gperftools, and the version that src/ must turn out to be
#   PIKAFORGE_TARGET_FLAGS  such as "-march=sandybridge -mtune=sandybridge"
#   PIKAFORGE_JOBS          number of parallel jobs
#   PIKAFORGE_CCACHE        0 or 1; CCACHE_DIR is then the caller's choice
#   SOURCE_DATE_EPOCH   seconds
# With PIKAFORGE_UNWINDER=libunwind the library is built from libunwind/ where that exists,
# else the image's is taken.
# Results in PIKAFORGE_ROOT/out:
#   prefix/lib            shared libraries and archives of tcmalloc, the profiler, and
#                         both; pkgconfig/; libunwind if it was built
#   prefix/include        headers of gperftools
#   prefix/share/doc      licences
#   debug/PATH.debug      debug information of prefix/PATH
#   facts/unwinder.tsv    key, values (tab between them):
#       asked      libunwind or frame-pointers
#       chosen     the same, as configure and the library say
#       method     gperftools' own name of what it uses unless told otherwise
#       compiled   all that are compiled in, separated by commas
#       libunwind  none; image, package, version; built, -, version
#       gperftools its version
#       configure  the arguments
#   facts/dropped.tsv facts/compiler.txt facts/macros.txt
#                         as compile.sh
# Exit status: 0 done; 2 the environment is wrong; 64 the build failed, its output
# tells; 65 the result is not what was asked for; 66 the build image lacks something.
set -eu
# shellcheck source=toolchain.sh
. "${0%/*}/toolchain.sh"

need_set PIKAFORGE_ROOT PIKAFORGE_UNWINDER PIKAFORGE_PRODUCT PIKAFORGE_VERSION PIKAFORGE_TARGET_FLAGS \
    PIKAFORGE_JOBS SOURCE_DATE_EPOCH
need_numbers
case $PIKAFORGE_UNWINDER in
    libunwind) export PIKAFORGE_FRAME_POINTERS=0 ;;
    # The walk begins in gperftools itself, so that must have them, too.
    frame-pointers) export PIKAFORGE_FRAME_POINTERS=1 ;;
    *) fail 2 "PIKAFORGE_UNWINDER is $PIKAFORGE_UNWINDER, not libunwind or frame-pointers" ;;
esac
[ -f "$PIKAFORGE_ROOT/src/configure" ] || [ -f "$PIKAFORGE_ROOT/src/configure.ac" ] ||
    fail 2 "$PIKAFORGE_ROOT/src has neither configure nor configure.ac: is it the source of gperftools, without its top folder?"

prepare_environment
out=$PIKAFORGE_ROOT/out
prefix=$out/prefix
facts=$out/facts
stage=$PIKAFORGE_ROOT/stage
unwind_source=$PIKAFORGE_ROOT/libunwind
rm -rf "$out" "$stage"
mkdir -p "$prefix/lib" "$prefix/include" "$prefix/share/doc" "$out/debug" "$facts" "$stage"
ask_compiler "$facts"
make_wrapper

# --- building ------------------------------------------------------------------------
# Makes the source folder $1 ready for configure.
make_configure() {
    # Archives bring time stamps in any order, and those decide whether make thinks that
    # it has to make configure or Makefile.in anew. With equal ones it never does.
    find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    if [ -f "$1/configure" ]; then
        chmod 755 "$1/configure"
        return 0
    fi
    # Release tarballs have it, git trees and Debian's copy of gperftools have not.
    need_tools autoreconf automake libtoolize
    (cd "$1" && exec autoreconf --install) || fail 64 "autoreconf failed in ${1##*/}"
}

# Checks that the image has a libunwind to build with; configure would go on without.
need_image_libunwind() {
    advice='install libunwind-dev (Debian, Ubuntu) or libunwind-devel (EL: EPEL) in the build image, or pin the source of libunwind'
    gcc -E -include libunwind.h -x c /dev/null >/dev/null 2>&1 ||
        fail 66 "the image has no libunwind.h: $advice"
    printf 'int main(void) { return 0; }\n' | gcc -x c - -lunwind -o "$stage/linked" >/dev/null 2>&1 ||
        fail 66 "the image has libunwind.h, but no libunwind to link with: $advice"
}

# Builds libunwind into stage/unwind. Its own libraries for other purposes (ptrace, core
# files) stay away; without lzma and zlib it needs nothing but the C library. Versions
# that do not know one of the options say so and go on.
build_libunwind() {
    make_configure "$unwind_source"
    (
        cd "$unwind_source"
        # gcc 10 made -fno-common the default, with which releases before 1.5 do not
        # link (libunwind#154, #166); older compilers and releases do not mind.
        export PIKAFORGE_EXTRA_CFLAGS=-fcommon
        ./configure --prefix=/usr --libdir=/usr/lib --disable-static --disable-dependency-tracking \
            --disable-documentation --disable-tests --disable-coredump --disable-ptrace \
            --disable-setjmp --disable-minidebuginfo --disable-zlibdebuginfo &&
            make -j"$PIKAFORGE_JOBS" &&
            make install DESTDIR="$stage/unwind"
    ) || fail 64 'libunwind could not be built'
    # libtool would take the folder that a .la names for the one where the library is.
    find "$stage/unwind" -name '*.la' -exec rm -f {} +
    find_one "$stage/unwind/usr/lib" 'libunwind.so.*' >/dev/null
}

# Builds gperftools into stage/gperftools. With /usr as prefix libtool adds no run path.
build_gperftools() {
    make_configure "$PIKAFORGE_ROOT/src"
    # Not --enable-minimal: it leaves out what the product looks for. Nor the debugging
    # allocators: nobody ships them.
    set -- --prefix=/usr --libdir=/usr/lib --enable-shared --enable-static \
        --disable-dependency-tracking --disable-debugalloc
    case $PIKAFORGE_UNWINDER in
        libunwind) set -- "$@" --enable-libunwind ;;
        # Both: where libunwind.h exists, gperftools 2.10 takes libunwind in spite of
        # --enable-frame-pointers (src/stacktrace.cc).
        frame-pointers) set -- "$@" --enable-frame-pointers --disable-libunwind ;;
    esac
    printf '%s\n' "$*" >"$stage/arguments"
    (
        cd "$PIKAFORGE_ROOT/src"
        if [ -d "$stage/unwind" ]; then
            export CPPFLAGS="-I$stage/unwind/usr/include" LDFLAGS="-L$stage/unwind/usr/lib"
        fi
        ./configure "$@"
    ) || fail 64 'configure of gperftools failed'
    check_configured
    libraries='libtcmalloc.la libprofiler.la libtcmalloc_and_profiler.la'
    (
        cd "$PIKAFORGE_ROOT/src"
        # Only what is delivered: "all" is ten times as much, mostly tests.
        # shellcheck disable=SC2086
        make -j"$PIKAFORGE_JOBS" $libraries || exit 1
        # In older releases (2.10 does, 2.16 does not) archives have malloc and so on made
        # weak, so that a program can bring its own.
        if grep -q '^LIBS_TO_WEAKEN *=' Makefile; then
            make all-local LIBS_TO_WEAKEN='libtcmalloc.la libtcmalloc_and_profiler.la' || exit 1
        fi
        make install-libLTLIBRARIES lib_LTLIBRARIES="$libraries" DESTDIR="$stage/gperftools" &&
            make install-data DESTDIR="$stage/gperftools"
    ) || fail 64 'gperftools could not be built'
}

# --- what was built ------------------------------------------------------------------
# Prints the value of the macro $1 in the configuration header $2.
config_value() {
    sed -n "s/^#define $1 \"*\\([^\"]*\\)\"*\$/\\1/p" "$2" | sed 1q
}

# Sets "configured" to the unwinder that config.h means, "version" to the source's, and
# fails if they are not the ones that were asked for.
check_configured() {
    config=$PIKAFORGE_ROOT/src/src/config.h
    [ -f "$config" ] || fail 65 'configure of gperftools made no src/config.h'
    # Newer releases say what they use; older ones use what they have found.
    if grep -q USE_LIBUNWIND "$config"; then
        macro=USE_LIBUNWIND
    else
        macro=HAVE_LIBUNWIND_H
    fi
    configured=frame-pointers
    [ -z "$(config_value "$macro" "$config")" ] || configured=libunwind
    [ "$configured" = "$PIKAFORGE_UNWINDER" ] ||
        fail 65 "asked for $PIKAFORGE_UNWINDER, but configure of gperftools chose $configured ($macro in src/config.h)"
    version=$(config_value PACKAGE_VERSION "$config")
    [ "$version" = "$PIKAFORGE_VERSION" ] ||
        fail 65 "asked for gperftools $PIKAFORGE_VERSION, but the source is $version: correct the version or the tarball"
}

# Prints the file (no link) in the folder $1 whose name fits $2.
find_one() {
    find "$1" -maxdepth 1 -type f -name "$2" >"$stage/found" 2>/dev/null || :
    [ "$(wc -l <"$stage/found")" -eq 1 ] ||
        fail 65 "not one file $2 was built, but: $(tr '\n' ' ' <"$stage/found")"
    cat "$stage/found"
}

# Prints two lines: the stack walker that the library $1 uses unless told otherwise, and
# all that it has, separated by commas.
#
# src/stacktrace.cc has one static object impl__NAME for each. In 2.7 and 2.10 a static
# pointer get_stack_impl begins as the chosen one; in 2.16 it is filled at the start with
# the first of the table all_impls. Either way the linker leaves a relocation there
# with the object's address. Running the library would tell the same, but only on a
# CPU that has what the target has.
methods_of() {
    {
        readelf -sW "$1"
        # The mark tells awk where the second list begins.
        printf 'RELOCATIONS\n'
        readelf -rW "$1"
    } | awk '
        function number(text) { sub(/^0+/, "", text); return text }
        $1 == "RELOCATIONS" { relocations = 1; next }
        !relocations && $4 == "OBJECT" {
            if (match($8, /impl__[a-z0-9_]+$/)) {
                name = substr($8, RSTART + 6)
                at[number($2)] = name
                all[name] = 1
            }
            if ($8 ~ /get_stack_impl$/) pointer = number($2)
            if ($8 ~ /all_impls$/) table = number($2)
        }
        # offset, info, type, addend
        relocations && $3 ~ /_RELATIVE$/ { to[number($1)] = number($4) }
        END {
            chosen = at[to[pointer]]
            if (chosen == "") chosen = at[to[table]]
            print "chosen:" chosen
            for (name in all) print "has:" name
        }' | sort >"$stage/methods"
    sed -n 's/^chosen://p' "$stage/methods"
    sed -n 's/^has://p' "$stage/methods" | tr '\n' ',' | sed 's/,$//'
    printf '\n'
}

# Fails unless the library $1 needs libunwind when that was asked for, and only then.
check_needed() {
    needs=frame-pointers
    case $(needed_of "$1" | tr '\n' ' ') in
        libunwind* | *' libunwind'*) needs=libunwind ;;
    esac
    [ "$needs" = "$PIKAFORGE_UNWINDER" ] ||
        fail 65 "asked for $PIKAFORGE_UNWINDER, but ${1##*/} is linked for $needs: it needs $(needed_of "$1" | tr '\n' ' ')"
}

# Sets "chosen", "method" and "compiled" to what the library $1 has, and fails if that
# is not what was asked for.
check_methods() {
    methods_of "$1" >"$stage/said"
    {
        read -r method
        read -r compiled
    } <"$stage/said"
    chosen=neither
    case $method,",$compiled," in
        libunwind,*,libunwind,*) chosen=libunwind ;;
        *,libunwind,*) ;;
        # x86 in 2.7, generic_fp in 2.10 and later.
        generic_fp,* | x86,*) chosen=frame-pointers ;;
    esac
    [ "$chosen" = "$PIKAFORGE_UNWINDER" ] ||
        fail 65 "asked for $PIKAFORGE_UNWINDER, but ${1##*/} uses ${method:-what cannot be told}; compiled in: ${compiled:-nothing that is known}"
}

# Prints where the libunwind of the library $1 comes from.
origin_of_libunwind() {
    if [ "$PIKAFORGE_UNWINDER" != libunwind ]; then
        printf 'none\n'
    elif [ -d "$stage/unwind" ]; then
        printf 'built\t-\t%s\n' "$(config_value PACKAGE_VERSION "$unwind_source/include/config.h")"
    else
        path=$(ldd "$1" | sed -n 's/^[[:space:]]*libunwind\.so\.[^ ]* => \(\/.*\) (0x[0-9a-f]*)$/\1/p')
        printf 'image\t%s\n' "$(package_of "${path:-/nowhere}")"
    fi
}

# --- delivery ------------------------------------------------------------------------
# Not bin (pprof), man pages, libtool's files; no header of libunwind either, for its
# unwind.h would hide the compiler's.
deliver() {
    from=$stage/gperftools/usr
    for name in tcmalloc profiler tcmalloc_and_profiler; do
        find_one "$from/lib" "lib$name.so.*" >/dev/null
        [ -f "$from/lib/lib$name.a" ] || fail 65 "lib$name.a was not built"
        cp -P "$from/lib/lib$name".so* "$from/lib/lib$name.a" "$prefix/lib/"
    done
    cp -R "$from/include/." "$prefix/include/"
    mkdir "$prefix/lib/pkgconfig"
    for name in tcmalloc profiler; do
        # Relative to the file itself, for nobody knows where the prefix will be.
        # shellcheck disable=SC2016
        sed -e 's|^prefix=.*|prefix=${pcfiledir}/../..|' -e 's|^exec_prefix=.*|exec_prefix=${prefix}|' \
            -e 's|^libdir=.*|libdir=${prefix}/lib|' -e 's|^includedir=.*|includedir=${prefix}/include|' \
            "$from/lib/pkgconfig/lib$name.pc" >"$prefix/lib/pkgconfig/lib$name.pc"
    done
    deliver_licence "$PIKAFORGE_ROOT/src" gperftools
    if [ -d "$stage/unwind" ]; then
        cp -P "$stage/unwind/usr/lib"/libunwind.so* "$prefix/lib/"
        deliver_licence "$unwind_source" libunwind
    fi
    find "$prefix" -type f -exec chmod 644 {} +
    find "$prefix/lib" -type f -name '*.so*' -exec chmod 755 {} +
}

# Copies the licence of the source $1 to share/doc/$2.
deliver_licence() {
    [ -f "$1/COPYING" ] || fail 65 "the source of $2 has no COPYING: what is shipped needs its licence"
    mkdir "$prefix/share/doc/$2"
    cp "$1/COPYING" "$prefix/share/doc/$2/COPYING"
}

# Debug information of archives is not kept: it would have to travel inside of them.
# The objects in them get no owners and times.
finish_libraries() {
    find "$prefix/lib" -name '*.a' -exec strip -D --strip-debug {} +
    separate_debug "$prefix" "$out/debug"
    # After strip, which can destroy what patchelf has changed: see bundle.sh.
    list_elves "$prefix" >"$stage/elves"
    while IFS= read -r file; do
        wanted=
        needed_of "$file" >"$stage/needed"
        while IFS= read -r soname; do
            # shellcheck disable=SC2016
            [ ! -e "$prefix/lib/$soname" ] || wanted='$ORIGIN'
        done <"$stage/needed"
        has=$(readelf -dW "$file" | sed -n 's/.*(R[UN]*PATH).*\[\(.*\)\]$/\1/p')
        [ "$has" != "$wanted" ] || continue
        # Setting wipes the old text, which may be a path of this build; removing does not.
        patchelf --set-rpath "$wanted" "$file"
        [ -n "$wanted" ] || patchelf --remove-rpath "$file"
    done <"$stage/elves"
}

# Fails if a path of this build is in a delivered file. "/usr/src/forge/x", to which
# the prefix maps turn "/forge/x", is none: what comes before must not be of a name.
check_paths() {
    pattern=$(printf '%s' "$PIKAFORGE_ROOT" | sed 's/[][\.*^$+?(){}|]/\\&/g')
    status=0
    grep -a -l -r -E "(^|[^[:alnum:]_.-])$pattern(/|[^[:alnum:]_.-]|\$)" "$prefix" >"$stage/leaks" || status=$?
    [ "$status" -ne 0 ] || fail 65 "a path below $PIKAFORGE_ROOT is in: $(sed "s|^$prefix/||" "$stage/leaks" | tr '\n' ' ')"
    [ "$status" -eq 1 ] || fail 65 "$prefix cannot be searched for paths of this build"
}

# --- all of it -----------------------------------------------------------------------
if [ "$PIKAFORGE_UNWINDER" = libunwind ]; then
    if [ -d "$unwind_source" ]; then
        build_libunwind
    else
        need_image_libunwind
    fi
fi
build_gperftools
dropped_flags >"$facts/dropped.tsv"
deliver
# tcmalloc last, for the facts. The profiler has the same object in it, but its linker
# options drop the names.
for name in profiler tcmalloc_and_profiler tcmalloc; do
    library=$(find_one "$prefix/lib" "lib$name.so.*")
    check_needed "$library"
    [ "$name" = profiler ] || check_methods "$library"
done
{
    printf 'asked\t%s\n' "$PIKAFORGE_UNWINDER"
    printf 'chosen\t%s\n' "$chosen"
    printf 'method\t%s\n' "$method"
    printf 'compiled\t%s\n' "$compiled"
    printf 'libunwind\t%s\n' "$(origin_of_libunwind "$library")"
    printf 'gperftools\t%s\n' "$version"
    printf 'configure\t%s\n' "$(cat "$stage/arguments")"
} >"$facts/unwinder.tsv"
finish_libraries
check_paths
find "$prefix" "$out/debug" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
