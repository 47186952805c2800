#!/bin/sh
# Build gperftools for a target in the build image, with one of the two ways in which it can walk the stack, and check
# which one the result has. Everything comes by environment variables:
#
#   PIKAFORGE_ROOT          folder with guest/, src/ (gperftools) and optionally libunwind/; out/, stage/ and wrap/ are
#                           made in it
#   PIKAFORGE_UNWINDER      libunwind or frame-pointers
#   PIKAFORGE_PRODUCT       gperftools
#   PIKAFORGE_VERSION       the version that src/ must have
#   PIKAFORGE_TARGET_FLAGS  such as "-march=sandybridge -mtune=sandybridge"
#   PIKAFORGE_JOBS          number of parallel jobs
#   PIKAFORGE_CCACHE        0 or 1; CCACHE_DIR is the caller's choice then
#   SOURCE_DATE_EPOCH       seconds
#
# With PIKAFORGE_UNWINDER=libunwind the library is built from libunwind/ where that exists. Else that of the image is
# used.
# Results in PIKAFORGE_ROOT/out:
#   prefix/lib            shared libraries and archives of tcmalloc, of the profiler, and of both together; pkgconfig/;
#                         libunwind if it was built
#   prefix/include        headers of gperftools
#   prefix/share/doc      licences
#   debug/PATH.debug      debug information of prefix/PATH
#   facts/unwinder.tsv    key, values (tabs between them):
#       asked       libunwind or frame-pointers
#       chosen      the same, as configure and the library have it
#       method      the name that gperftools has for the stack walker that it uses by default
#       compiled    all stack walkers that are compiled in, separated by commas
#       libunwind   none; image, package, version; built, -, version
#       gperftools  its version
#       configure   the arguments
#   facts/dropped.tsv facts/compiler.txt facts/macros.txt
#                         as compile.sh
# Exit status: 0 done; 2 the environment is wrong; 64 the build failed, and its output says why; 65 the result is not
# what was asked for; 66 the build image lacks something.
set -eu
# shellcheck source=toolchain.sh
. "${0%/*}/toolchain.sh"

need_set PIKAFORGE_ROOT PIKAFORGE_UNWINDER PIKAFORGE_PRODUCT PIKAFORGE_VERSION PIKAFORGE_TARGET_FLAGS \
    PIKAFORGE_JOBS SOURCE_DATE_EPOCH
need_numbers
case $PIKAFORGE_UNWINDER in
    libunwind) export PIKAFORGE_FRAME_POINTERS=0 ;;
    # The walk begins in gperftools, so its own code must have frame pointers, too.
    frame-pointers) export PIKAFORGE_FRAME_POINTERS=1 ;;
    *) fail 2 "PIKAFORGE_UNWINDER is $PIKAFORGE_UNWINDER, not libunwind or frame-pointers" ;;
esac
[ -f "$PIKAFORGE_ROOT/src/configure" ] || [ -f "$PIKAFORGE_ROOT/src/configure.ac" ] ||
    fail 2 "$PIKAFORGE_ROOT/src has neither configure nor configure.ac:" \
        "is it the source of gperftools, without its top folder?"

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

# ---- building

# Make sure that the source folder $1 has a configure that can be run.
make_configure() {
    # By the times of files make decides whether it has to make configure or Makefile.in anew, and archives have them in
    # any order. With equal times it never does.
    find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    if [ -f "$1/configure" ]; then
        chmod 755 "$1/configure"
        return 0
    fi
    # Release tarballs have it. Git trees and Debian's source of gperftools do not.
    need_tools autoreconf automake libtoolize
    (cd "$1" && exec autoreconf --install) || fail 64 "autoreconf failed in ${1##*/}"
}

# Fail unless the image has a libunwind to build with. Without one, configure would go on in silence.
need_image_libunwind() {
    advice='install libunwind-dev (Debian, Ubuntu) or libunwind-devel (EL: EPEL) in the build image'
    advice="$advice, or pin the source of libunwind"
    gcc -E -include libunwind.h -x c /dev/null >/dev/null 2>&1 ||
        fail 66 "the image has no libunwind.h: $advice"
    printf 'int main(void) { return 0; }\n' | gcc -x c - -lunwind -o "$stage/linked" >/dev/null 2>&1 ||
        fail 66 "the image has libunwind.h, but no libunwind to link with: $advice"
}

# Build libunwind into stage/unwind, without its libraries for other purposes (ptrace, core files). Without lzma and
# zlib it needs nothing but the C library. Versions that do not know one of the options print a warning and go on.
build_libunwind() {
    make_configure "$unwind_source"
    (
        cd "$unwind_source"
        # gcc 10 made -fno-common the default, with which releases before 1.5 do not link (libunwind#154, #166). For
        # older compilers and newer releases the flag changes nothing.
        export PIKAFORGE_EXTRA_CFLAGS=-fcommon
        ./configure --prefix=/usr --libdir=/usr/lib --disable-static --disable-dependency-tracking \
            --disable-documentation --disable-tests --disable-coredump --disable-ptrace \
            --disable-setjmp --disable-minidebuginfo --disable-zlibdebuginfo &&
            make -j"$PIKAFORGE_JOBS" &&
            make install DESTDIR="$stage/unwind"
    ) || fail 64 'libunwind could not be built'
    # From a .la file libtool would take the folder of an installation, where the library is not.
    find "$stage/unwind" -name '*.la' -exec rm -f {} +
    find_one "$stage/unwind/usr/lib" 'libunwind.so.*' >/dev/null
}

# Build gperftools into stage/gperftools. With /usr as prefix, libtool adds no run path.
build_gperftools() {
    make_configure "$PIKAFORGE_ROOT/src"
    # Not --enable-minimal, which leaves out what products look for. Without the debugging allocators, which nobody
    # ships.
    set -- --prefix=/usr --libdir=/usr/lib --enable-shared --enable-static \
        --disable-dependency-tracking --disable-debugalloc
    case $PIKAFORGE_UNWINDER in
        libunwind) set -- "$@" --enable-libunwind ;;
        # Both options: where libunwind.h exists, gperftools 2.10 uses libunwind in spite of --enable-frame-pointers
        # (src/stacktrace.cc).
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
        # Only what is installed: "all" is ten times as much, mostly tests.
        # shellcheck disable=SC2086
        make -j"$PIKAFORGE_JOBS" $libraries || exit 1
        # Older releases (2.10 does, 2.16 does not) make malloc and so on weak symbols of the archives, so that a
        # program can bring its own.
        if grep -q '^LIBS_TO_WEAKEN *=' Makefile; then
            make all-local LIBS_TO_WEAKEN='libtcmalloc.la libtcmalloc_and_profiler.la' || exit 1
        fi
        make install-libLTLIBRARIES lib_LTLIBRARIES="$libraries" DESTDIR="$stage/gperftools" &&
            make install-data DESTDIR="$stage/gperftools"
    ) || fail 64 'gperftools could not be built'
}

# ---- what was built

# Print the value of the macro $1 in the configuration header $2.
config_value() {
    sed -n "s/^#define $1 \"*\\([^\"]*\\)\"*\$/\\1/p" "$2" | sed 1q
}

# Set `configured` to the unwinder that config.h has, and `version` to the version of the source. Fail if they are not
# those that were asked for.
check_configured() {
    config=$PIKAFORGE_ROOT/src/src/config.h
    [ -f "$config" ] || fail 65 'configure of gperftools made no src/config.h'
    # Newer releases have a macro for what they use; older ones use what they have found.
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
        fail 65 "asked for gperftools $PIKAFORGE_VERSION, but the source is $version:" \
            "correct the version or the tarball"
}

# Print the regular file in the folder $1 whose name fits the pattern $2. Fail unless there is exactly one.
find_one() {
    find "$1" -maxdepth 1 -type f -name "$2" >"$stage/found" 2>/dev/null || :
    [ "$(wc -l <"$stage/found")" -eq 1 ] ||
        fail 65 "not one file $2 was built, but: $(tr '\n' ' ' <"$stage/found")"
    cat "$stage/found"
}

# Print two lines: the stack walker that the library $1 uses by default, and all that it has, separated by commas.
#
# src/stacktrace.cc has one static object impl__NAME for each stack walker. In 2.7 and 2.10 a static pointer,
# get_stack_impl, has the chosen one as its initial value; in 2.16 it gets the first of the table all_impls when the
# program starts. In both cases the linker leaves a relocation there with the address of the object. The running library
# could be asked instead, but only on a CPU that can run code for the target.
methods_of() {
    {
        readelf -sW "$1"
        # awk finds the begin of the second list by this line.
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

# Fail unless the library $1 needs libunwind where that was asked for, and only there.
check_needed() {
    needs=frame-pointers
    case $(needed_of "$1" | tr '\n' ' ') in
        libunwind* | *' libunwind'*) needs=libunwind ;;
    esac
    [ "$needs" = "$PIKAFORGE_UNWINDER" ] ||
        fail 65 "asked for $PIKAFORGE_UNWINDER, but ${1##*/} is linked for $needs:" \
            "it needs $(needed_of "$1" | tr '\n' ' ')"
}

# Set `chosen`, `method` and `compiled` to what the library $1 has. Fail if that is not what was asked for.
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
        fail 65 "asked for $PIKAFORGE_UNWINDER, but ${1##*/} uses ${method:-a stack walker that is not known};" \
            "compiled in: ${compiled:-nothing that is known}"
}

# Print where the libunwind of the library $1 comes from.
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

# ---- the prefix

# Copy what products need to the prefix: not bin (pprof), manual pages and libtool's files, and no header of libunwind,
# whose unwind.h would hide that of the compiler.
fill_prefix() {
    from=$stage/gperftools/usr
    for name in tcmalloc profiler tcmalloc_and_profiler; do
        find_one "$from/lib" "lib$name.so.*" >/dev/null
        [ -f "$from/lib/lib$name.a" ] || fail 65 "lib$name.a was not built"
        cp -P "$from/lib/lib$name".so* "$from/lib/lib$name.a" "$prefix/lib/"
    done
    cp -R "$from/include/." "$prefix/include/"
    mkdir "$prefix/lib/pkgconfig"
    for name in tcmalloc profiler; do
        # Relative to the file itself, because the prefix may be anywhere.
        # shellcheck disable=SC2016
        sed -e 's|^prefix=.*|prefix=${pcfiledir}/../..|' -e 's|^exec_prefix=.*|exec_prefix=${prefix}|' \
            -e 's|^libdir=.*|libdir=${prefix}/lib|' -e 's|^includedir=.*|includedir=${prefix}/include|' \
            "$from/lib/pkgconfig/lib$name.pc" >"$prefix/lib/pkgconfig/lib$name.pc"
    done
    copy_licence "$PIKAFORGE_ROOT/src" gperftools
    if [ -d "$stage/unwind" ]; then
        cp -P "$stage/unwind/usr/lib"/libunwind.so* "$prefix/lib/"
        copy_licence "$unwind_source" libunwind
    fi
    find "$prefix" -type f -exec chmod 644 {} +
}

# Copy the licence of the source $1 to share/doc/$2.
copy_licence() {
    [ -f "$1/COPYING" ] || fail 65 "the source of $2 has no COPYING: what is shipped needs its licence"
    mkdir "$prefix/share/doc/$2"
    cp "$1/COPYING" "$prefix/share/doc/$2/COPYING"
}

# Separate debug information, and set the run paths. That of archives is not kept, because it would have to stay in
# them. The members of archives get no owners and times.
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
        # Setting overwrites the old text, which may be a path of this build; removing does not.
        patchelf --set-rpath "$wanted" "$file"
        [ -n "$wanted" ] || patchelf --remove-rpath "$file"
    done <"$stage/elves"
}

# Fail if a path of this build is in a file of the prefix. "/usr/src/forge/x", into which the prefix maps turn
# "/forge/x", is not one: the character before the path must not belong to a name.
check_paths() {
    pattern=$(printf '%s' "$PIKAFORGE_ROOT" | sed 's/[][\.*^$+?(){}|]/\\&/g')
    status=0
    grep -a -l -r -E "(^|[^[:alnum:]_.-])$pattern(/|[^[:alnum:]_.-]|\$)" "$prefix" >"$stage/leaks" || status=$?
    [ "$status" -ne 0 ] ||
        fail 65 "a path below $PIKAFORGE_ROOT is in: $(sed "s|^$prefix/||" "$stage/leaks" | tr '\n' ' ')"
    [ "$status" -eq 1 ] || fail 65 "$prefix cannot be searched for paths of this build"
}

# ---- all steps

if [ "$PIKAFORGE_UNWINDER" = libunwind ]; then
    if [ -d "$unwind_source" ]; then
        build_libunwind
    else
        need_image_libunwind
    fi
fi
build_gperftools
dropped_flags >"$facts/dropped.tsv"
fill_prefix
# tcmalloc is the last one, because its facts are written. The profiler has the same objects, but its linker options
# drop their names.
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
