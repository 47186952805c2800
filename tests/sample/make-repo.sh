#!/bin/sh
# Make the git repositories of the sample server below DEST, and print the commit of the tag.
#
#   make-repo.sh DEST
#
#   pika.git pink.git rocksdb.git   bare, with history, tags, pull requests, and branches that have the pull requests in
#                                   several ways
#   pull/N.patch                    each pull request as a mailbox
#
# environment  SAMPLE_SUBMODULE_BASE  where the URLs of the submodules point, instead of beside pika.git
# The same files give the same commits on every machine.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
tag=v3.4.0

die() {
    printf '%s\n' "make-repo.sh: $*" >&2
    exit 1
}

case ${1-} in
    -h | --help)
        sed -n '/^set -eu/q;1d;s/^# \{0,1\}//p' "$0"
        exit
        ;;
    '' | -*) die "usage: make-repo.sh DEST" ;;
esac
[ $# -eq 1 ] || die "usage: make-repo.sh DEST"
command -v git >/dev/null || die "git is needed"
umask 022
mkdir -p -- "$1"
dest=$(CDPATH='' cd -- "$1" && pwd -P)
tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# Settings of git on this machine, or of the caller, must not change the result. GIT_CONFIG_NOSYSTEM and HOME are for
# versions that do not know GIT_CONFIG_GLOBAL.
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

# Set the date of all following commits and tags.
at() {
    GIT_AUTHOR_DATE="$1T12:00:00+0000"
    GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
    export GIT_AUTHOR_DATE GIT_COMMITTER_DATE
}

# Make DEST/$1.git, and let further git commands work on it, with a work tree that begins with the files of $here/$2.
open_repo() {
    unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
    rm -rf -- "$dest/$1.git"
    git init --quiet --bare --template= "$dest/$1.git"
    tree=$tmp/$1
    cp -R -- "$here/$2" "$tree"
    enter "$1"
    # Modes depend on checkout, archive and umask; add() sets them.
    git config core.fileMode false
    git symbolic-ref HEAD refs/heads/master
    # A shallow fetch asks for a commit by its hash.
    git config uploadpack.allowReachableSHA1InWant true
    git config uploadpack.allowAnySHA1InWant true
}

# Let further git commands work on DEST/$1.git.
enter() {
    cd -- "$tmp/$1"
    export GIT_DIR="$dest/$1.git" GIT_WORK_TREE="$tmp/$1" GIT_INDEX_FILE="$tmp/$1.index"
}

# Stage files. Those that begin with #! are executable, and no others.
add() {
    git add -A -- "$@"
    git ls-files -- "$@" | while IFS= read -r file; do
        [ -f "$file" ] || continue # a submodule
        case $(head -c 2 "$file" | tr -d '\000') in
            '#!') git update-index --chmod=+x -- "$file" ;;
        esac
    done
}

# Commit what is staged, with the message in the file $1.
commit() {
    git commit --quiet --no-verify --cleanup=verbatim -F "$1"
}

# Write the message for the next commit.
say() {
    printf '%s\n' "$@" >"$tmp/message"
}

# Make the repository of the library $1 with one commit of the date $2.
library() {
    open_repo "$1" "$1"
    at "$2"
    add .
    say "$3"
    commit "$tmp/message"
    git rev-parse HEAD >"$tmp/$1.commit"
}

# Stage the library $1 as a submodule.
submodule() {
    git update-index --add --cacheinfo 160000 "$(cat "$tmp/$1.commit")" "third/$1"
}

library rocksdb 2020-09-01 'Add the storage library'
library pink 2020-09-02 'Add the network library'

# The second commit of pink is on its master, as a fix that was merged. A pull request of the server moves the submodule
# to it.
at 2021-03-01
git apply --index "$here/pulls/1017/pink.diff"
commit "$here/pulls/1017/pink-message"
pink_fixed=$(git rev-parse HEAD)

# The commit after it is on another branch of pink. Only the branch `later` of the server needs it.
at 2021-05-03
git symbolic-ref HEAD refs/heads/next
git update-ref refs/heads/next "$pink_fixed"
printf '# The network library\n' >README.md
add README.md
say 'Say what this is'
commit "$tmp/message"
pink_later=$(git rev-parse HEAD)
git symbolic-ref HEAD refs/heads/master

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
# As in a clone without its submodules. Without these folders the submodules would count as removed.
mkdir -p third/pink third/rocksdb
add .
say 'Release 3.4.0'
commit "$tmp/message"
release=$(git rev-parse HEAD)
git tag -a -m 'Release 3.4.0' "$tag" "$release"
git tag v3.4.0-1 "$release"

# Begin the branch $1 at the commit $2. Further commits are on it.
branch() {
    git symbolic-ref HEAD "refs/heads/$1"
    git update-ref "refs/heads/$1" "$2"
    git read-tree -m -u "$2"
}

point_pink_to() {
    git update-index --cacheinfo 160000 "$1" third/pink
}

# Stage what the pull request $1 changes.
change() {
    if [ -f "$here/pulls/$1/change.diff" ]; then
        git apply --index "$here/pulls/$1/change.diff"
    else
        point_pink_to "$pink_fixed"
    fi
}

# Make the pull request $1 of the date $2. All pull requests begin at the release.
pull() {
    branch "pull-$1" "$release"
    at "$2"
    if [ -f "$here/pulls/$1/first.diff" ]; then
        for part in first second; do
            git apply --index "$here/pulls/$1/$part.diff"
            commit "$here/pulls/$1/$part-message"
        done
    else
        change "$1"
        commit "$here/pulls/$1/message"
    fi
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
pull 1102 2021-04-20 # not in the series

# ---- branches that have the pull requests already, as forks and later masters do

# Replace the text that matches $2 in the file $1 by $3, and stage the file.
edit() {
    sed "s/$2/$3/" "$1" >"$tmp/edited"
    ! cmp -s "$1" "$tmp/edited" || die "nothing in $1 matches $2"
    cat "$tmp/edited" >"$1"
    git add -- "$1"
}

# Commit a change that moves the lines of the pull requests by two lines.
preface() {
    for file in src/pika.cc src/pika_coding.cc src/pika_keyspace.cc; do
        { printf '// This file is part of the server.\n\n' && cat "$file"; } >"$tmp/edited"
        cat "$tmp/edited" >"$file"
        git add -- "$file"
    done
    say 'Say what the files are part of'
    commit "$tmp/message"
}

at 2021-05-04
branch merged "$release"
for number in 988 990 1017 1041; do
    git read-tree -m -u --aggressive "$release" HEAD "refs/heads/pull-$number"
    tree=$(git write-tree)
    merged=$(git commit-tree -p HEAD -p "refs/heads/pull-$number" -m "Merge pull request #$number" "$tree")
    git update-ref HEAD "$merged"
done
git tag -a -m 'The release and what was merged since' v3.4.0-2 merged

# pink is at a later commit than the pull request has.
branch later merged
point_pink_to "$pink_later"
say 'Update pink'
commit "$tmp/message"

# One commit for each pull request, at other lines.
branch squashed "$release"
preface
for number in 988 990 1017 1041; do
    change "$number"
    say "$(head -n 1 "$here/pulls/$number/message") (#$number)"
    commit "$tmp/message"
done

# The same lines were changed again. Only the history still shows 1041.
branch moved-on squashed
edit src/pika.cc 'stop_signal = 0' 'stop_signal = -1'
say 'Begin with a number that is no signal'
commit "$tmp/message"

# The same commits with other hashes. Of 1102, `half` has the first of two commits.
branch picked "$release"
preface
for number in 988 990 1017 1041; do
    change "$number"
    commit "$here/pulls/$number/message"
done
branch half picked
git apply --index "$here/pulls/1102/first.diff"
commit "$here/pulls/1102/first-message"

# This mends in another way what 990 mends.
branch conflict "$release"
edit src/pika_coding.cc 'return BigEndian(bits ^ kSignBit);' 'return BigEndian(score < 0 ? ~bits : bits ^ kSignBit);'
say 'Order negative scores (#990)'
commit "$tmp/message"

git symbolic-ref HEAD refs/heads/master

# So that a server of plain files can serve the repositories.
for name in rocksdb pink pika; do
    enter "$name"
    git config core.fileMode true
    git update-server-info
done

printf '%s\n' "$release"
