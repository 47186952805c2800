#!/bin/sh
# Stop the detection of the host's CPU in every gcc of a build image. Runs once, as root, while the image is made.
#
#   specs.sh [COMPILER...]     paths of compilers; without any, all that can be found
#
# The wrapper (cc) drops -march=native, but a tree may call the compiler by its absolute path. gcc reads a file `specs`
# in its own library folder. This script writes the specs of the compiler to it, without the calls of local_cpu_detect:
# -march=native, -mtune=native and -mcpu=native then mean the default of the compiler.
#
# The file has to be the whole output of -dumpspecs. If there is any specs file, the driver skips the part of its start
# that completes the built-in specs (for example how libgcc is linked). So a file with only the changed section would
# also change how programs are linked.
#
# ccache gives no wrong hits, although it compares only the driver: the wrapper drops `native` before it calls ccache,
# calls by absolute path do not use ccache, and compile.sh adds the specs file to what ccache hashes.
#
# environment  PIKAFORGE_SPECS_FOLDER (tests): write there, as a folder for gcc -B, and not to the compiler's own folder
# Exit status: 0 done; 1 a compiler still detects the host, or works otherwise than before; 66 no compiler found.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
unset GCC_EXEC_PREFIX COMPILER_PATH CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
: >"$scratch/empty.c"
: >"$scratch/empty.cc"

# Call the compiler; with PIKAFORGE_SPECS_FOLDER in place of its own folder, if that is set.
call() {
    if [ -n "${PIKAFORGE_SPECS_FOLDER-}" ]; then
        "$compiler" -B "$PIKAFORGE_SPECS_FOLDER/" "$@"
    else
        "$compiler" "$@"
    fi
}

# Print the commands that the driver would run, without names of temporary files.
planned() {
    call -### "$@" 2>&1 |
        sed -e '/^Reading specs from/d' -e '/^Using built-in specs/d' \
            -e 's|"*[^ "]*/cc[A-Za-z0-9]\{6\}[^ "]*|TEMPORARY|g'
}

# Print the option -$1= that the driver itself passes to cc1, such as -march=x86-64; nothing where the default is built
# into cc1.
default_of() {
    planned -c "$scratch/empty.c" | tr ' ' '\n' | tr -d "\"'" |
        sed -n "s/^\\(-$1=[A-Za-z0-9_.-]*\\)\$/\\1/p" | sed 1q
}

# Write the specs file for a compiler, unless its folder has been dealt with.
neutralise() {
    folder=${PIKAFORGE_SPECS_FOLDER-}
    [ -n "$folder" ] || folder=$(dirname "$("$compiler" -print-libgcc-file-name)")
    [ -d "$folder" ] || fail 1 "$compiler: its library folder $folder does not exist"
    case " $done_folders " in
        *" $folder "*) return 0 ;;
    esac
    done_folders="$done_folders $folder"

    planned "$scratch/empty.c" >"$scratch/before"
    "$compiler" -dumpspecs >"$scratch/old"
    # Only sections that call the detection are changed. Its arguments have no nested parentheses (gcc 4.8: "arch";
    # since 10: "arch %{!m32:64;:32}").
    sed -e "s/%:local_cpu_detect(arch[^()]*)/$(default_of march)/g" \
        -e "s/%:local_cpu_detect(tune[^()]*)/$(default_of mtune)/g" \
        "$scratch/old" >"$scratch/new"
    if grep -q local_cpu_detect "$scratch/new"; then
        fail 1 "$compiler: its specs call local_cpu_detect in a form that is not known here"
    fi
    cp "$scratch/new" "$folder/specs.new.$$"
    chmod 644 "$folder/specs.new.$$"
    mv -f "$folder/specs.new.$$" "$folder/specs"
    verify "$folder"
    note "$compiler: -march=native is the default now ($folder/specs)"
}

# Return whether two files of the scratch folder are the same; set `difference` to how they differ.
same() { # FILE FILE
    difference=$(diff "$scratch/$1" "$scratch/$2")
}

# Fail unless `native` means the default, and calls without it are the same as before.
verify() { # FOLDER
    planned "$scratch/empty.c" >"$scratch/after"
    same before after || fail 1 "$compiler: $1/specs also changes calls without native: $difference"

    for source in empty.c empty.cc; do
        # A gcc without the package for C++ has no cc1plus.
        case $source in
            *.cc) [ -x "$(call -print-prog-name=cc1plus)" ] || continue ;;
        esac
        call -dM -E "$scratch/$source" >"$scratch/default"
        call -Q --help=target "$scratch/$source" >"$scratch/default.options" 2>/dev/null || :
        for native in -march=native -mtune=native -mcpu=native \
            '-march=native -mtune=native'; do
            # shellcheck disable=SC2086
            call $native -dM -E "$scratch/$source" >"$scratch/native" 2>"$scratch/warning" ||
                fail 1 "$compiler: $native fails: $(cat "$scratch/warning")"
            same default native || fail 1 "$compiler: $native still changes the macros of $source: $difference"
            # shellcheck disable=SC2086
            call $native -Q --help=target "$scratch/$source" >"$scratch/native.options" 2>/dev/null || :
            same default.options native.options ||
                fail 1 "$compiler: $native still changes the options of $source: $difference"
            # On a host whose CPU is the default, equal macros prove nothing. So look for traces of the detection in the
            # command line of cc1, too.
            # shellcheck disable=SC2086
            planned $native -c "$scratch/$source" | grep '/cc1\(plus\)\{0,1\}"\{0,1\} ' >"$scratch/cc1" ||
                fail 1 "$compiler: cannot find the call of cc1 for $source"
            if grep -q -e 'l1-cache-size' -e '=native' -e ' "*-mno-' "$scratch/cc1"; then
                fail 1 "$compiler: $native still asks the host: $(cat "$scratch/cc1")"
            fi
        done
    done
}

# Print the gcc drivers on PATH and in the folders of added tool sets.
find_compilers() {
    {
        printf '%s\n' "$PATH" | tr ':' '\n'
        ls -d /opt/rh/*/root/usr/bin 2>/dev/null || :
    } | while IFS= read -r place; do
        case $place in
            */ccache) continue ;;
        esac
        for file in "$place"/gcc "$place"/gcc-[0-9]* "$place/$(uname -m)"-*-gcc \
            "$place/$(uname -m)"-*-gcc-[0-9]*; do
            [ ! -x "$file" ] || printf '%s\n' "$file"
        done
    done
}

done_folders=
if [ $# -eq 0 ]; then
    find_compilers >"$scratch/compilers"
else
    printf '%s\n' "$@" >"$scratch/compilers"
fi
[ -s "$scratch/compilers" ] || fail 66 "no gcc found on PATH ($PATH) nor in /opt/rh: install it first"
while IFS= read -r compiler; do
    neutralise
done <"$scratch/compilers"
