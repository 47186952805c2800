#!/bin/sh
# Makes the git repositories of the sample server under DEST:
#
#   pika.git pink.git rocksdb.git   bare, with history, tag and pull requests
#   pull/N.patch                    each pull request as a mailbox
#
# usage: make-repo.sh DEST
# Environment: SAMPLE_SUBMODULE_BASE, where the submodules' URLs point instead
# of beside pika.git.
#
# The same files give the same commits on every machine. Prints the commit of
# the tag.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
tag=v3.4.0

die() {
    printf '%s\n' "make-repo.sh: $*" >&2
    exit 1
}

[ -n "${1-}" ] || die "usage: make-repo.sh DEST"
command -v git >/dev/null || die "git is needed"
umask 022
mkdir -p -- "$1"
dest=$(CDPATH='' cd -- "$1" && pwd -P)
tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# Nothing of the machine's or the caller's git may leak into the result.
# GIT_CONFIG_NOSYSTEM and HOME are for versions that know no GIT_CONFIG_GLOBAL.
for name in $(env | cut -d= -f1); do
    case $name in
        *[!A-Za-z0-9_]*) ;;
        GIT_*) unset "$name" ;;
    esac
done
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_NOSYSTEM=1
export HOME="$tmp" XDG_CONFIG_HOME="$tmp" GIT_DEFAULT_HASH=sha1 GIT_TERMINAL_PROMPT=0
export LC_ALL=C TZ=UTC
export GIT_AUTHOR_NAME='Sample Author' GIT_AUTHOR_EMAIL='author@sample.invalid'
export GIT_COMMITTER_NAME='Sample Committer' GIT_COMMITTER_EMAIL='committer@sample.invalid'

# All following commits and tags bear this date.
at() {
    GIT_AUTHOR_DATE="$1T12:00:00+0000"
    GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
    export GIT_AUTHOR_DATE GIT_COMMITTER_DATE
}

# Further git commands work on DEST/$1.git, with a work tree of their own that
# starts with the files of $here/$2.
open_repo() {
    unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
    rm -rf -- "$dest/$1.git"
    git init --quiet --bare --template= "$dest/$1.git"
    tree=$tmp/$1
    cp -R -- "$here/$2" "$tree"
    enter "$1"
    # Modes differ between checkouts, archives and umasks; see add().
    git config core.fileMode false
    git symbolic-ref HEAD refs/heads/master
    # A shallow fetch asks for a commit by its name.
    git config uploadpack.allowReachableSHA1InWant true
    git config uploadpack.allowAnySHA1InWant true
}

enter() {
    cd -- "$tmp/$1"
    export GIT_DIR="$dest/$1.git" GIT_WORK_TREE="$tmp/$1" GIT_INDEX_FILE="$tmp/$1.index"
}

# Stages files. What starts with #! is a program, and nothing else is.
add() {
    git add -A -- "$@"
    git ls-files -- "$@" | while IFS= read -r file; do
        [ -f "$file" ] || continue # a submodule
        case $(head -c 2 "$file" | tr -d '\000') in
            '#!') git update-index --chmod=+x -- "$file" ;;
        esac
    done
}

commit() {
    git commit --quiet --no-verify --cleanup=verbatim -F "$1"
}

say() {
    printf '%s\n' "$@" >"$tmp/message"
}

library() {
    open_repo "$1" "$1"
    at "$2"
    add .
    say "$3"
    commit "$tmp/message"
    git rev-parse HEAD >"$tmp/$1.commit"
}

submodule() {
    git update-index --add --cacheinfo 160000 "$(cat "$tmp/$1.commit")" "third/$1"
}

library rocksdb 2020-09-01 'Add the storage library'
library pink 2020-09-02 'Add the network library'

# The second commit of pink is on master there, as a fix that was merged: a
# pull request of the server then points to it.
at 2021-03-01
git apply --index "$here/pulls/1017/pink.diff"
commit "$here/pulls/1017/pink-message"
pink_fixed=$(git rev-parse HEAD)

open_repo pika server
base=${SAMPLE_SUBMODULE_BASE:-..}
for name in pink rocksdb; do
    printf '[submodule "third/%s"]\n\tpath = third/%s\n\turl = %s/%s.git\n' \
        "$name" "$name" "${base%/}" "$name"
done >.gitmodules

at 2020-09-03
add .gitignore Makefile detect_environment conf
say 'Add the build and the configuration'
commit "$tmp/message"

at 2020-09-04
add .gitmodules proto include
submodule pink
submodule rocksdb
say 'Add the libraries and the interfaces'
commit "$tmp/message"

at 2020-11-02
# Like a clone without its submodules: an absent folder would count as removed.
mkdir -p third/pink third/rocksdb
add .
say 'Release 3.4.0'
commit "$tmp/message"
release=$(git rev-parse HEAD)
git tag -a -m 'Release 3.4.0' "$tag" "$release"
git tag v3.4.0-1 "$release"

# Pull requests branch off the release, independently of each other.
pull() {
    git symbolic-ref HEAD "refs/heads/pull-$1"
    git update-ref "refs/heads/pull-$1" "$release"
    git read-tree -m -u "$release"
    at "$2"
    if [ -f "$here/pulls/$1/change.diff" ]; then
        git apply --index "$here/pulls/$1/change.diff"
    else
        git update-index --cacheinfo 160000 "$pink_fixed" third/pink
    fi
    commit "$here/pulls/$1/message"
    git update-ref "refs/pull/$1/head" "refs/heads/pull-$1"
    git format-patch --quiet --stdout --no-signature --full-index \
        "$release..refs/heads/pull-$1" >"$dest/pull/$1.patch"
}

rm -rf -- "$dest/pull"
mkdir -- "$dest/pull"
pull 988 2020-11-20
pull 990 2020-12-01
pull 1017 2021-03-02
pull 1041 2021-04-12
git symbolic-ref HEAD refs/heads/master

# For servers of plain files, too.
for name in rocksdb pink pika; do
    enter "$name"
    git config core.fileMode true
    git update-server-info
done

printf '%s\n' "$release"
