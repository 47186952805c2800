#!/bin/sh
# Whether a patch fits a tree, forwards or backwards: functions for series.sh, which sets kind, file and strip: of the
# patch, `am` (mailbox) or `diff`, its file below patches/, and how deep its names are stripped.
#
# Everything is tried on an index of its own, $look/index; neither the work tree nor its index takes part.
#
# unwind is a subshell and has its own kind, file and strip, on purpose.
# shellcheck disable=SC2031
set -eu
# shellcheck source=lib.sh
. "${0%/*}/lib.sh"
root=$PIKAFORGE_ROOT
look=$root/look

index() { GIT_INDEX_FILE=$look/index git "$@"; }

# Write the diffs of a patch, one of each mail, as $look/FILE/VARIANT/0001 and so on; beside them, VARIANT.list has their
# paths in order, VARIANT-R.list in the other order, VARIANT.moves the submodules that they move, and FILE/paths the files
# that they are about. VARIANT is `kept` with carriage returns as they are, or `stripped` without those at the ends of
# lines. What holds no change (a cover letter, an empty commit) is left out.
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
    # git am strips, so that comes first for mails, and the other one only where it makes a difference.
    if [ "$kind" = am ] && git diff --no-index --quiet "$look/$file/stripped" "$look/$file/kept"; then
        : >"$look/$file/kept.list"
    fi
    cat "$look/$file/stripped.list" "$look/$file/kept.list" | while read -r one; do
        git apply --numstat -z "-p$strip" "$one" 2>/dev/null || true
        git apply --numstat -z -R "-p$strip" "$one" 2>/dev/null || true
    done | tr '\0' '\n' | cut -f 3- | sort -u >"$look/$file/paths"
}

split_mails() {
    if [ "$variant" = kept ]; then set -- --keep-cr; else set --; fi
    git mailsplit -b -d4 "$@" "-o$look/$file/mails-$variant" "$root/patches/$file" >/dev/null || return 0
    for mail in "$look/$file/mails-$variant"/*; do
        git mailinfo -k "$look/message" "$diffs/${mail##*/}" <"$mail" >"$look/$file/${mail##*/}.info" 2>"$look/mailinfo.log" || true
    done
}

holds_a_change() {
    if git apply --numstat "-p$strip" "$diff" >"$look/numstat" 2>"$look/numstat.log"; then
        [ -s "$look/numstat" ]
    elif grep -qi 'no valid patches\|unrecognized input' "$look/numstat.log"; then
        return 1 # no diff at all; a damaged one is kept, so that git's words on it are shown
    fi
}

# The variants of a patch that differ, in the order in which they are tried.
variants() {
    if [ "$kind" = am ]; then set -- stripped kept; else set -- kept stripped; fi
    for variant; do
        [ ! -s "$look/$file/$variant.list" ] || printf '%s\n' "$variant"
    done
}

# Apply a patch to the index, or with -R take it back from it, the last mail first. What git says is in $look/log.
# Where a submodule stood at a later commit than the patch's, $look/later has its path, that commit and the patch's.
# If the status is not 0 and $touched is not empty, the index is of no use any more.
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

# Whether a file that git has taken as it is (with a warning) has not the mode that the patch gives it.
wrong_mode() { # DIFF LOG
    grep -q '^warning: ' "$2" || return 1
    git apply --summary "-p$strip" "$1" |
        sed -n -e 's/^ mode change [0-7]* => [0-7]* //p' -e 's/^ create mode [0-7]* //p' >"$look/modes"
    sed -n 's/^warning: \(.*\) has type [0-7]*, expected [0-7]*$/\1/p' "$2" | grep -qxF -f "$look/modes"
}

# The submodules that a diff moves: lines of OLD<TAB>NEW<TAB>PATH; `-` where there is none.
moves() {
    awk -v strip="$strip" '
        function name(line) {
            line = substr(line, 5); sub(/[\t\r].*$/, "", line)
            for (i = 0; i < strip; i++) sub(/^[^\/]*\//, "", line)
            return line
        }
        function tell() { if (old != new) print old "\t" new "\t" (to == "/dev/null" || to == "dev/null" ? from : to) }
        BEGIN { old = new = "-" }
        /^diff --git / { tell(); old = new = "-"; hunk = 0; next }
        !hunk && /^--- / { from = name($0) }
        !hunk && /^\+\+\+ / { to = ($2 == "/dev/null") ? "/dev/null" : name($0) }
        /^@@ / { hunk = 1 }
        hunk && /^-Subproject commit [0-9a-f]+\r?$/ { old = $3; sub(/\r$/, "", old) }
        hunk && /^\+Subproject commit [0-9a-f]+\r?$/ { new = $3; sub(/\r$/, "", new) }
        END { tell() }' "$1"
}

# The commit at which the index has a submodule.
stands_at() { index ls-files --stage -- "$1" | awk '$1 == "160000" { print $2 }'; }

# Where a submodule stands at a commit that holds the patch's, let the index say the patch's; also where a source
# without commits has the very files of that.
stand_back() {
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

# Whether a hunk was not at its line, or a file not of its mode.
displaced() { grep -q -e '^Hunk #[0-9]* succeeded at ' -e '^warning: .* has type ' "$1"; }

# Whether a patch adds anything: lines that are only missing may be missing for any reason.
adds() {
    while read -r diff <&6; do
        git apply --numstat "-p$strip" "$diff"
    done 6<"$look/$file/$1.list" | awk '$1 != "0" { found = 1 } END { exit !found }'
}

# What the names of blobs in a patch say of the index: `has` if all files are as after it, `lacks` if as before.
blobs() {
    while read -r diff <&6; do
        cat "$diff"
    done 6<"$look/$file/$1.list" | awk -v strip="$strip" '
        function bare(path) { for (i = 0; i < strip; i++) sub(/^[^\/]*\//, "", path); return path }
        function tell() {
            if (ids[1] != "" && path != "") {
                if (!(path in before)) before[path] = ids[1]
                after[path] = ids[2]
            } else if (seen) unknown = 1
        }
        /^diff --git / {
            tell(); seen = 1; ids[1] = path = ""
            both = substr($0, 12); half = (length(both) - 1) / 2
            if (half == int(half) && bare(substr(both, 1, half)) == bare(substr(both, half + 2)))
                path = bare(substr(both, 1, half))
        }
        /^index [0-9a-f]+\.\.[0-9a-f]+/ && ids[1] == "" { split($2, ids, /\.\./) }
        END {
            tell()
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

# Whether a tree has the patches of LIST: write lines of FILE<TAB>VARIANT<TAB>VERDICT to DIR/verdicts, and what git said
# to DIR/FILE.log and DIR/FILE.later. All are taken back one after the other; the last of the series is the first of
# LIST, because it may have changed what an earlier one wrote. VERDICT is `has`, or `unclear` where the tree would be the
# same to look at with the patch and without. What is not there is not listed.
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

# What it means that a patch can be taken back from the index, which is $look/with, too, as LOG tells. If it could be applied, too, because lines
# repeat, blobs are asked, and then which of the two fits at the very lines.
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
