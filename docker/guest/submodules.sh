#!/bin/sh
# Check submodules out into a source tree; called again for the submodules that they bring themselves.
#
# inputs   tree/            the source tree so far
#          git/N/           bare repositories
#          modules/list     lines of N<TAB>PATH<TAB>COMMIT
# outputs  out/source/, out/facts (`link` lines, as source.sh writes them), out/epoch
set -eu
root=$FORGE_ROOT
tab=$(printf '\t')
GIT_CONFIG_GLOBAL=$root/safe GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_NOSYSTEM=1 HOME=$root
export GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM GIT_CONFIG_NOSYSTEM HOME
# The repositories were made by another user, on another machine.
printf '[safe]\n\tdirectory = *\n' >"$root/safe"

mkdir -p "$root/out"
mv "$root/tree" "$root/out/source"
: >"$root/out/facts"
printf '%s\n' "$SOURCE_DATE_EPOCH" >"$root/out/epoch"

while IFS=$tab read -r number path commit; do
    [ -n "$number" ] || continue
    work=$root/work/$number
    mkdir -p "$work" "$root/out/source/$path"
    git init --quiet "$work"
    git -C "$work" config core.autocrlf false
    git -C "$work" fetch --quiet --depth=1 --no-tags \
        --upload-pack='git -c uploadpack.allowAnySHA1InWant=true upload-pack' "file://$root/git/$number" "$commit"
    git -C "$work" checkout --quiet --detach "$commit"
    git -C "$work" checkout-index --all --prefix="$root/out/source/$path/"
    if [ -f "$work/.gitmodules" ]; then
        git config --file "$work/.gitmodules" --get-regexp '\.path$' | while read -r key inner; do
            pointer=$(git -C "$work" ls-files --stage -- "$inner" | awk '$1 == "160000" { print $2 }')
            section=${key%.path}
            [ -z "$pointer" ] || printf 'link\t%s\t%s\t%s\n' "$path/$inner" "$pointer" \
                "$(git config --file "$work/.gitmodules" "$section.url")" >>"$root/out/facts"
        done
    fi
done <"$root/modules/list"
