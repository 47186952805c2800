#!/bin/sh
# Check submodules out into a source tree. The caller calls this again for the submodules of submodules.
#
# inputs   tree/            the source tree so far
#          git/N/           bare repositories
#          modules/list     lines of N<TAB>PATH<TAB>COMMIT
# environment  SOURCE_DATE_EPOCH, the time for out/epoch
# outputs  out/source/, out/epoch
#          out/facts        the `link` facts of these submodules, as source.sh writes them
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT
seal_git "$root/safe" "$root"
# The repositories come from another user and machine. git refuses those without this setting.
printf '[safe]\n\tdirectory = *\n' >"$root/safe"

mkdir -p "$root/out"
mv "$root/tree" "$root/out/source"
: >"$root/out/facts"
printf '%s\n' "$SOURCE_DATE_EPOCH" >"$root/out/epoch"

while IFS=$tab read -r number path commit; do
    [ -n "$number" ] || continue
    work=$root/work/$number
    mkdir -p "$work" "$root/out/source/$path"
    if [ "${#commit}" -eq 64 ]; then format=sha256; else format=sha1; fi
    GIT_DEFAULT_HASH=$format git init --quiet "$work"
    git -C "$work" config core.autocrlf false
    git -C "$work" fetch --quiet --depth=1 --no-tags \
        --upload-pack='git -c uploadpack.allowAnySHA1InWant=true upload-pack' "file://$root/git/$number" "$commit"
    git -C "$work" checkout --quiet --detach "$commit"
    git -C "$work" checkout-index --all --prefix="$root/out/source/$path/"
    submodule_links "$work" "$path/" >>"$root/out/facts"
done <"$root/modules/list"
