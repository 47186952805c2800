#!/bin/sh
# Functions for series.sh that find out whether a patch fits a tree: whether it can be applied, or taken back. series.sh
# sets these variables for the patch:
#
#   kind   am (mailbox) or diff
#   file   its file below patches/
#   strip  how many folders are stripped from the names in it
#
# Everything is tried on an index of its own, $look/index. The work tree and its index are not touched.
#
# unwind is a subshell and has its own kind, file and strip, on purpose.
# shellcheck disable=SC2031
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT
look=$root/look

# Run git with that index.
index() { GIT_INDEX_FILE=$look/index git "$@"; }

# Split a patch into diffs, one for each mail:
#
#   $look/FILE/VARIANT/0001…     the diffs; mails without a change (a cover letter, an empty commit) are left out
#   $look/FILE/VARIANT.list      their paths in order
#   $look/FILE/VARIANT-R.list    their paths in reverse order
#   $look/FILE/VARIANT.moves     the submodules that they move
#   $look/FILE/paths             the files that they change
#
# VARIANT is `kept`, with carriage returns as they are, or `stripped`, without those at the ends of lines.
split() {
    for variant in stripped kept; do
        diffs=$look/$file/$variant
        mkdir -p "$diffs" "$look/$file/mails-$variant"
        if [ "$kind" = am ]; then
            split_mails
        elif [ "$variant" = kept ]; then
            cp "$root/patches/$file" "$diffs/0001"
        elif awk '!/\r$/ { exit 1 }' "$root/patches/$file"; then
            tr -d '\r' <"$root/patches/$file" >"$diffs/0001"
        fi
        for diff in "$diffs"/*; do
            [ ! -f "$diff" ] || holds_a_change || rm "$diff"
        done
        find "$diffs" -type f | sort >"$diffs.list"
        sort -r "$diffs.list" >"$diffs-R.list"
        while read -r diff <&6; do moves "$diff"; done 6<"$diffs.list" >"$diffs.moves"
    done
    # git am strips carriage returns, so `stripped` is the first variant for mails. `kept` counts only if it differs.
    if [ "$kind" = am ] && git diff --no-index --quiet "$look/$file/stripped" "$look/$file/kept"; then
        : >"$look/$file/kept.list"
    fi
    cat "$look/$file/stripped.list" "$look/$file/kept.list" | while read -r one; do
        git apply --numstat -z "-p$strip" "$one" 2>/dev/null || true
        git apply --numstat -z -R "-p$strip" "$one" 2>/dev/null || true
    done | tr '\0' '\n' | cut -f 3- | sort -u >"$look/$file/paths"
}

# Split a mailbox into the diffs of its mails.
split_mails() {
    if [ "$variant" = kept ]; then set -- --keep-cr; else set --; fi
    git mailsplit -b -d4 "$@" "-o$look/$file/mails-$variant" "$root/patches/$file" >/dev/null || return 0
    for mail in "$look/$file/mails-$variant"/*; do
        git mailinfo -k "$look/message" "$diffs/${mail##*/}" \
            <"$mail" >"$look/$file/${mail##*/}.info" 2>"$look/mailinfo.log" || true
    done
}

# Return whether $diff holds a change.
holds_a_change() {
    if git apply --numstat "-p$strip" "$diff" >"$look/numstat" 2>"$look/numstat.log"; then
        [ -s "$look/numstat" ]
    elif grep -qi 'no valid patches\|unrecognized input' "$look/numstat.log"; then
        return 1 # not a diff; a damaged diff is kept, so that git's message about it is shown
    fi
}

# Print the variants of a patch that differ, in the order in which they are tried.
variants() {
    if [ "$kind" = am ]; then set -- stripped kept; else set -- kept stripped; fi
    for variant; do
        [ ! -s "$look/$file/$variant.list" ] || printf '%s\n' "$variant"
    done
}

# Apply a patch to the index; with -R take it back, the last mail first. $look/log gets the messages of git. If a
# submodule is at a later commit than the patch has, $look/later gets its path, that commit and the commit of the patch.
# If the status is not 0 and $touched is not empty, the index cannot be used any more.
fit() { # VARIANT [-R]
    variant=$1 way=${2-} touched=
    : >"$look/log"
    : >"$look/later"
    while read -r diff <&6; do
        if [ -n "$way" ] && [ -s "$look/$file/$variant.moves" ]; then
            touched=yes
            stand_back "$diff"
        fi
        index apply --cached --verbose ${way:+"$way"} "-p$strip" --whitespace=nowarn "$diff" \
            >"$look/part" 2>&1 || return 1
        touched=yes
        [ -z "$way" ] || ! wrong_mode "$diff" "$look/part" || return 1
        cat "$look/part" >>"$look/log"
    done 6<"$look/$file/$variant$way.list"
}

# Return whether git has accepted (with a warning) a file that does not have the mode that the patch gives it.
wrong_mode() { # DIFF LOG
    grep -q '^warning: ' "$2" || return 1
    git apply --summary "-p$strip" "$1" |
        sed -n -e 's/^ mode change [0-7]* => [0-7]* //p' -e 's/^ create mode [0-7]* //p' >"$look/modes"
    sed -n 's/^warning: \(.*\) has type [0-7]*, expected [0-7]*$/\1/p' "$2" | grep -qxF -f "$look/modes"
}

# Print the submodules that a diff moves: lines of OLD<TAB>NEW<TAB>PATH, with `-` where there is no commit.
moves() { # DIFF
    awk -v strip="$strip" '
        function name(line) {
            line = substr(line, 5); sub(/[\t\r].*$/, "", line)
            for (i = 0; i < strip; i++) sub(/^[^\/]*\//, "", line)
            return line
        }
        function finish() {
            if (old != new) print old "\t" new "\t" (to == "/dev/null" || to == "dev/null" ? from : to)
        }
        BEGIN { old = new = "-" }
        /^diff --git / { finish(); old = new = "-"; hunk = 0; next }
        !hunk && /^--- / { from = name($0) }
        !hunk && /^\+\+\+ / { to = ($2 == "/dev/null") ? "/dev/null" : name($0) }
        /^@@ / { hunk = 1 }
        hunk && /^-Subproject commit [0-9a-f]+\r?$/ { old = $3; sub(/\r$/, "", old) }
        hunk && /^\+Subproject commit [0-9a-f]+\r?$/ { new = $3; sub(/\r$/, "", new) }
        END { finish() }' "$1"
}

# Print the commit that the index has for the submodule $1; nothing if it has none.
stands_at() { index ls-files --stage -- "$1" | awk '$1 == "160000" { print $2 }'; }

# Set submodules in the index to the commits of the diff, where the commit that is there contains that commit (by
# patches/holds), or where a source without commits has exactly the files of that commit (by patches/trees).
stand_back() { # DIFF
    moves "$1" >"$look/moves"
    while IFS=$tab read -r _ new path <&7; do
        now=$(stands_at "$path")
        if [ -n "$now" ]; then
            grep -qxF "$path$tab$new$tab$now" "$root/patches/holds" || continue
            printf '%s\t%s\t%s\n' "$path" "$now" "$new" >>"$look/later"
        else
            tree=$(index write-tree "--prefix=$path/" 2>/dev/null) || continue
            grep -qxF "$path$tab$new$tab$tree" "$root/patches/trees" || continue
            index rm -r --cached --quiet -- "$path"
        fi
        index update-index --add --cacheinfo 160000 "$new" "$path"
    done 7<"$look/moves"
}

# Return whether git's messages in the file $1 say that a hunk was not at its line, or a file did not have its mode.
displaced() { grep -q -e '^Hunk #[0-9]* succeeded at ' -e '^warning: .* has type ' "$1"; }

# Return whether a patch adds lines. If it only removes some, these may be missing for any reason.
adds() { # VARIANT
    while read -r diff <&6; do
        git apply --numstat "-p$strip" "$diff"
    done 6<"$look/$file/$1.list" | awk '$1 != "0" { found = 1 } END { exit !found }'
}

# Compare the index with the blobs that the patch names: print `has` if all files are as they are after the patch,
# `lacks` if all are as before it, nothing if that cannot be said.
blobs() { # VARIANT
    while read -r diff <&6; do
        cat "$diff"
    done 6<"$look/$file/$1.list" | awk -v strip="$strip" '
        function bare(path) { for (i = 0; i < strip; i++) sub(/^[^\/]*\//, "", path); return path }
        function finish() {
            if (ids[1] != "" && path != "") {
                if (!(path in before)) before[path] = ids[1]
                after[path] = ids[2]
            } else if (seen) unknown = 1
        }
        /^diff --git / {
            finish(); seen = 1; ids[1] = path = ""
            both = substr($0, 12); half = (length(both) - 1) / 2
            if (half == int(half) && bare(substr(both, 1, half)) == bare(substr(both, half + 2)))
                path = bare(substr(both, 1, half))
        }
        /^index [0-9a-f]+\.\.[0-9a-f]+/ && ids[1] == "" { split($2, ids, /\.\./) }
        END {
            finish()
            if (unknown || !seen) exit
            for (path in before) print before[path] "\t" after[path] "\t" path
        }' >"$look/blobs"
    verdict=
    while IFS=$tab read -r before after path <&7; do
        now=$(index ls-files --stage -- "$path" | awk '{ print $2 }')
        case ${now:-0000000000000000000000000000000000000000} in
        "$after"*) says=has ;;
        "$before"*) says=lacks ;;
        *) return 0 ;;
        esac
        case $verdict in
        '' | "$says") verdict=$says ;;
        *) return 0 ;;
        esac
    done 7<"$look/blobs"
    printf '%s\n' "$verdict"
}

# Find the patches of LIST that a tree has: take them back one after the other. LIST begins with the last patch of the
# series, because that may have changed what an earlier one wrote. Writes:
#
#   DIR/verdicts     lines of FILE<TAB>VARIANT<TAB>VERDICT: `has`, or `unclear` where the tree would look the same with
#                    the patch and without; patches that the tree does not have are not listed
#   DIR/FILE.log     messages of git
#   DIR/FILE.later   as fit writes it
unwind() ( # TREE LIST DIR
    list=$2 into=$3
    mkdir -p "$into"
    index read-tree "$1"
    cp "$look/index" "$look/with"
    : >"$into/verdicts"
    while IFS=$tab read -r kind file strip _ <&4; do
        for variant in $(variants); do
            if ! fit "$variant" -R; then
                [ -z "$touched" ] || cp "$look/with" "$look/index"
                continue
            fi
            cp "$look/log" "$into/$file.log"
            cp "$look/later" "$into/$file.later"
            mv "$look/index" "$look/without"
            cp "$look/with" "$look/index"
            verdict=$(weigh "$variant" "$into/$file.log")
            [ "$verdict" = lacks ] || printf '%s\t%s\t%s\n' "$file" "$variant" "$verdict" >>"$into/verdicts"
            [ "$verdict" != has ] || mv "$look/without" "$look/with"
            cp "$look/with" "$look/index"
            break
        done
    done 4<"$list"
)

# Print what it means that a patch could be taken back from the index (which $look/with has, too): `has`, `lacks` or
# `unclear`. LOG has the messages of that. Where lines repeat, the patch may be applicable, too: then the blobs decide,
# and if these do not, the way that fits at the exact lines.
weigh() ( # VARIANT LOG
    if ! fit "$1"; then
        if displaced "$2" && ! adds "$1"; then echo unclear; else echo has; fi
        return
    fi
    if displaced "$look/log"; then forwards=displaced; else forwards=exact; fi
    if displaced "$2"; then backwards=displaced; else backwards=exact; fi
    cp "$look/with" "$look/index"
    verdict=$(blobs "$1")
    case $verdict:$backwards:$forwards in
    :exact:displaced) echo has ;;
    :displaced:exact) echo lacks ;;
    :*) echo unclear ;;
    *) echo "$verdict" ;;
    esac
)
