#!/bin/sh
# Make the source tree: check out a commit or unpack a tarball, then apply the patches in order.
#
# inputs   git/0/        a bare repository that has the commit, or
#          tarball/      the tarball
#          patches/      what series.sh applies
# environment  PIKAFORGE_COMMIT   the commit, or
#              PIKAFORGE_TARBALL  the file name of the tarball
#              PIKAFORGE_HISTORY  1: git/0/ has the history of the commit, and series.sh looks at it
# outputs  out/source/   the tree without .git
#          out/epoch     time of the commit, or of the newest file of the tarball
#          out/facts     lines of KEY<TAB>VALUE…: those of series.sh; `head`, the patched commit; `git`, its version;
#                        `link` with path, commit and URL of each submodule
# Exit status: 0 done; 21 the tarball cannot be used; else that of what failed.
#
# git reads no configuration, hook or credential of the machine.
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT
work=$root/work

seal_git /dev/null "$root"
GIT_CEILING_DIRECTORIES=$root
GIT_AUTHOR_NAME=pikaforge GIT_AUTHOR_EMAIL=pikaforge@localhost
GIT_COMMITTER_NAME=pikaforge GIT_COMMITTER_EMAIL=pikaforge@localhost
export GIT_CEILING_DIRECTORIES GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL

# ---- the tree

mkdir -p "$work" "$root/out/source"
cd "$work"
commit=${PIKAFORGE_COMMIT:-}
[ "${#commit}" -ne 64 ] || export GIT_DEFAULT_HASH=sha256 # the length of such a commit
git init --quiet .
git config core.autocrlf false
git config core.fileMode true
git config gc.auto 0

if [ -n "${PIKAFORGE_COMMIT:-}" ]; then
    # The repository comes from another user and machine. git refuses those without this setting.
    git config --file "$root/safe" safe.directory '*'
    if [ -n "${PIKAFORGE_HISTORY:-}" ]; then deep=--update-shallow; else deep=--depth=1; fi
    GIT_CONFIG_GLOBAL=$root/safe git fetch --quiet "$deep" --no-tags \
        --upload-pack='git -c uploadpack.allowAnySHA1InWant=true upload-pack' "file://$root/git/0" "$PIKAFORGE_COMMIT"
    git checkout --quiet --detach "$PIKAFORGE_COMMIT"
    epoch=$(git log -1 --format=%ct HEAD)
else
    tar -xf "$root/tarball/$PIKAFORGE_TARBALL" --no-same-owner
    # Release tarballs hold one folder. The tree is the content of that.
    set -- ./*
    if [ $# -eq 1 ] && [ -d "$1" ] && [ -z "$(find . -mindepth 1 -maxdepth 1 -name '.?*' ! -name .git)" ]; then
        mv "$1" "$root/top"
        find "$root/top" -mindepth 1 -maxdepth 1 ! -name .git -exec mv {} . \;
    fi
    epoch=$(find . -path ./.git -prune -o -type f -printf '%T@\n' | sort -n | tail -n 1 | cut -d. -f1)
    [ -n "$epoch" ] || fail 21 "the tarball $PIKAFORGE_TARBALL holds no file"
    if [ -f .gitmodules ]; then
        git config --file .gitmodules --get-regexp '\.path$' | while read -r _ path; do
            [ -n "$(ls -A -- "$path" 2>/dev/null)" ] || printf '%s\n' "$path"
        done >"$root/empty"
        if [ -s "$root/empty" ]; then
            reason "the tarball $PIKAFORGE_TARBALL lacks the submodules $(tr '\n' ' ' <"$root/empty")"
            fail 21 "take a clone, or a tarball made with submodules"
        fi
    fi
    # --force: a release may hold files that its own .gitignore names, and patches may change them.
    git add --force --all .
    GIT_AUTHOR_DATE="@$epoch +0000" GIT_COMMITTER_DATE="@$epoch +0000" \
        git commit --quiet --no-verify --message "$PIKAFORGE_TARBALL"
fi
printf '%s\n' "$epoch" >"$root/out/epoch"

# ---- the patches

PIKAFORGE_EPOCH=$epoch
export PIKAFORGE_EPOCH
: >"$root/out/facts"
sh "$root/guest/series.sh"

# ---- the result

{
    printf 'head\t%s\n' "$(git rev-parse HEAD)"
    printf 'git\t%s\n' "$(git --version)"
    submodule_links . ''
} >>"$root/out/facts"
git checkout-index --all --prefix="$root/out/source/"
