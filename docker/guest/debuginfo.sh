#!/bin/sh
# Pack debug information as a tarball: `tar xf … -C /` puts it where debuggers look.
#
# inputs   what pack/layout.tsv names as sources
#          pack/layout.tsv          see layout.sh
# environment  SOURCE_DATE_EPOCH
# outputs  out/debuginfo.tar.gz     the same bytes each time
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT

mkdir -p "$root/out"
sh "$root/guest/layout.sh" "$root/pack/layout.tsv" "$root/pack/root"
# The members are the paths of the list only, so that no folder of the system (usr, usr/lib) is among them.
cut -f 3 "$root/pack/layout.tsv" | sed 's|^/||' | sort >"$root/pack/members"
archive "$root/debuginfo.tar" "$SOURCE_DATE_EPOCH" --directory "$root/pack/root" \
    --no-recursion --files-from "$root/pack/members"
gzip -n -6 <"$root/debuginfo.tar" >"$root/out/debuginfo.tar.gz"
