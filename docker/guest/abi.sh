#!/bin/sh
# Copy the libraries whose symbol versions the base system promises.
#
#   abi.sh SONAME...
#
# outputs  out/SONAME   the library that the loader takes for it; empty if there is none
# Exit status: 0 done; 22 ldconfig fails.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
loader_list >"$PIKAFORGE_ROOT/cache"
for soname in "$@"; do
    # "	libc.so.6 (libc6,x86-64, OS ABI: Linux 3.2.0) => /lib/x86_64-linux-gnu/libc.so.6". The first one wins, as it
    # does for the loader. Not with awk or sed, which some small images lack.
    found=
    while read -r name kind rest; do
        case "$name $kind" in
            "$soname (libc6,x86-64"*) ;;
            *) continue ;;
        esac
        found=${rest##*=> }
        break
    done <"$PIKAFORGE_ROOT/cache"
    if [ -n "$found" ]; then
        cat "$found" >"$PIKAFORGE_ROOT/out/$soname"
    else
        : >"$PIKAFORGE_ROOT/out/$soname"
    fi
done
