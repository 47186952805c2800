#!/bin/sh
# Make the tree of a build self-contained: copy the libraries that the base system does not promise to lib/ below the
# tree, and give every ELF file that needs them a run path relative to itself.
#
#   bundle.sh [copy|link]      without a verb: both
#
#   copy  copies the libraries, and writes out/facts/bundled.tsv
#   link  sets the run paths, then checks that every library is found in the tree or in the base system
# These are two steps because strip has to run between them: strip can destroy a file that patchelf has changed
# (NixOS/patchelf#10, #371, pypa/auditwheel#716).
#
# environment  PIKAFORGE_ROOT
#              PIKAFORGE_BASE_LIBS      patterns of the sonames that the base system promises, separated by spaces
#              PIKAFORGE_ALLOCATOR_DIR  optional: the prefix of an allocator that was built, with lib/
# Exit status: 0 done; 2 the environment is wrong; 65 a library is missing, or a file names one by its path; 66 no
# patchelf.
#
# RUNPATH, not RPATH. The libraries would inherit an RPATH, but it also wins over LD_LIBRARY_PATH, and an operator must
# be able to try another library without packing again. DT_RUNPATH serves only the file that has it, so each library
# that needs another one in lib/ gets its own ($ORIGIN).
set -euf
# shellcheck source=toolchain.sh
. "${0%/*}/toolchain.sh"
# These may help the caller's shell to find libraries. The host of a user does not have them.
unset LD_LIBRARY_PATH LD_PRELOAD

need_set PIKAFORGE_ROOT PIKAFORGE_BASE_LIBS
root=$(cd "$PIKAFORGE_ROOT" && pwd -P)
tree=$root/out/tree
facts=$root/out/facts
allocator=${PIKAFORGE_ALLOCATOR_DIR-}
case ${1-all} in
    copy | link | all) verb=${1-all} ;;
    *)
        printf 'usage: bundle.sh [copy|link]\n' >&2
        exit 2
        ;;
esac

need_tools patchelf sha256sum
mkdir -p "$facts"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Return whether the base system promises the library with the soname $1.
is_base() {
    case $1 in
        # A page of the kernel, not a file.
        linux-vdso.so.* | linux-gate.so.*) return 0 ;;
    esac
    for pattern in $PIKAFORGE_BASE_LIBS; do
        # It is a pattern on purpose: "libc.so.*".
        # shellcheck disable=SC2254
        case $1 in
            $pattern) return 0 ;;
        esac
    done
    return 1
}

# Return whether $1 is a part of glibc. All parts must be of one version, and of that of the loader, which is found by
# its path on the host (ld.so(8)): none can travel.
is_glibc() {
    case $1 in
        ld-linux*.so.* | libc.so.* | libm.so.* | libmvec.so.* | libpthread.so.* | libdl.so.* | librt.so.* | \
            libresolv.so.* | libutil.so.* | libanl.so.*) return 0 ;;
    esac
    return 1
}

# Write "soname<TAB>path" of everything that the loader would map for the ELF file $1 to the file $2, with the search
# path $3. Fail if a library is missing.
resolve() {
    # A static program has nothing to resolve, and ldd ends with 1 for it.
    if [ -z "$(needed_of "$1")" ]; then
        : >"$2"
        return 0
    fi
    # ldd also prints "not found" for a symbol version, to standard error.
    LD_LIBRARY_PATH=$3 ldd "$1" >"$scratch/ldd" 2>&1 ||
        fail 65 "${1#"$tree/"}: ldd fails: $(cat "$scratch/ldd")"
    if grep 'not found' "$scratch/ldd" >"$scratch/missing"; then
        while IFS= read -r line; do
            reason "${1#"$tree/"} needs ${line#"$tab"}"
        done <"$scratch/missing"
        fail 65 'install the missing library in the build image, or add its folder to the recipe'
    fi
    sed -n "s|^[[:space:]]*\\([^ ]*\\) => \\(/.*\\) (0x[0-9a-f]*)\$|\\1$tab\\2|p" "$scratch/ldd" >"$2"
    # If a library without a soname was linked by its path, the loader looks it up by that path on every host. (ldd
    # prints the loader as a plain path, too.)
    sed -n 's|^[[:space:]]*\([^ ]*/[^ ]*\) .*(0x[0-9a-f]*)$|\1|p' "$scratch/ldd" >"$scratch/paths"
    while IFS= read -r path; do
        is_base "${path##*/}" ||
            fail 65 "${1#"$tree/"} names $path by its path: link it with -l, or give it a soname"
    done <"$scratch/paths"
}

# Print "package<TAB>version" of the package that brought the file $1.
origin_of() {
    if [ -n "$allocator" ]; then
        case $1 in
            "$allocator"/*)
                printf 'allocator\t-\n'
                return 0
                ;;
        esac
    fi
    package_of "$1"
}

# Copy the libraries that the base system does not promise to lib/, and list them in bundled.tsv.
copy_libraries() {
    : >"$scratch/bundled"
    search=$tree/lib${allocator:+:$allocator/lib}
    list_elves "$tree" >"$scratch/elves"
    while IFS= read -r file; do
        # ldd prints all libraries that are needed, directly or not: what is copied here needs no further round.
        resolve "$file" "$scratch/closure" "$search"
        while IFS=$tab read -r soname path; do
            if is_base "$soname" || [ -e "$tree/lib/$soname" ]; then
                continue
            fi
            ! is_glibc "$soname" || fail 65 "${file#"$tree/"} needs $soname, a part of glibc, which cannot travel:" \
                "add '${soname%%.so*}.so.*' to defaults.base_libraries"
            mkdir -p "$tree/lib"
            cp "$(readlink -f "$path")" "$tree/lib/$soname"
            chmod 644 "$tree/lib/$soname"
            # Now, because strip and patchelf will change the file.
            digest=$(sha256sum <"$tree/lib/$soname")
            printf '%s\t%s\t%s\t%s\n' "$soname" "lib/$soname" "$(origin_of "$path")" "${digest%% *}" \
                >>"$scratch/bundled"
        done <"$scratch/closure"
    done <"$scratch/elves"
    sort "$scratch/bundled" >"$facts/bundled.tsv"
}

# Print the run path with which the file $1 (relative to the tree) finds lib/.
run_path_of() {
    folder=$1
    up=
    case $folder in
        lib/*) folder=${folder#lib/} last= ;;
        *) last=lib ;;
    esac
    while [ "$folder" != "${folder#*/}" ]; do
        folder=${folder#*/}
        up=$up/..
    done
    printf '%s\n' "\$ORIGIN$up${last:+/$last}"
}

# Print the kind and the value of the run path of the file $1; nothing if it has none.
run_path_entry() {
    readelf -dW "$1" | sed -n 's/.*(\(R[UN]*PATH\)).*\[\(.*\)\]$/\1 \2/p'
}

# Give each file that needs a library in lib/ its run path, and take the run paths of all others away.
set_run_paths() {
    list_elves "$tree" >"$scratch/elves"
    while IFS= read -r file; do
        wanted=
        needed_of "$file" >"$scratch/needed"
        while IFS= read -r soname; do
            is_base "$soname" || wanted=$(run_path_of "${file#"$tree/"}")
        done <"$scratch/needed"
        wanted_entry=${wanted:+RUNPATH $wanted}
        [ "$(run_path_entry "$file")" != "$wanted_entry" ] || continue
        # Also where none is wanted: setting overwrites the old text, which may be a path of this build. Removing
        # leaves it in the file.
        patchelf --set-rpath "$wanted" "$file"
        [ -n "$wanted" ] || patchelf --remove-rpath "$file"
        [ "$(run_path_entry "$file")" = "$wanted_entry" ] ||
            fail 65 "${file#"$tree/"}: patchelf did not set the run path '$wanted'"
    done <"$scratch/elves"
}

# Fail if a file of the tree finds a library outside of the tree that the base system does not promise.
check_closed() {
    list_elves "$tree" >"$scratch/elves"
    while IFS= read -r file; do
        resolve "$file" "$scratch/closure" ''
        while IFS=$tab read -r soname path; do
            is_base "$soname" && continue
            case $(readlink -f "$path") in
                "$tree"/*) ;;
                *) fail 65 "${file#"$tree/"} finds $soname outside of the tree: $path" ;;
            esac
        done <"$scratch/closure"
    done <"$scratch/elves"
}

case $(find "$tree" -name "*$newline*" | sed 1q) in
    '') ;;
    *) fail 65 'a file name in the tree holds a line break' ;;
esac
[ "$verb" = link ] || copy_libraries
if [ "$verb" != copy ]; then
    set_run_paths
    check_closed
fi
