#!/bin/sh
# Apply the patches of the series that the source does not have already, one after the other.
#
# Runs in the work tree of a repository whose HEAD is the source. Afterwards HEAD is the patched source.
#
# inputs   patches/list    lines of KIND<TAB>FILE<TAB>STRIP<TAB>NAME; KIND is `am` (mailbox) or `diff`; FILE is 0000,
#                          0001 and so on
#          patches/holds   lines of PATH<TAB>OLD<TAB>NEW: commit NEW of the submodule at PATH contains its commit OLD
#          patches/trees   lines of PATH<TAB>COMMIT<TAB>TREE: that commit of the submodule at PATH has these files
# environment  PIKAFORGE_HISTORY  1: HEAD has its history, which is searched where the tree does not decide
#              PIKAFORGE_EPOCH    time of the commits that are made of diffs
# outputs  out/facts       further lines of KEY<TAB>FILE<TAB>…
#                          state    applied, present or conflict
#                          offset   PATH<TAB>HUNK<TAB>LINES: a hunk that fits, but so many lines further down
#                          note     where a patch that is present comes from
#                          reason   why a patch is in conflict
#
# A patch is present if its whole change can be taken back from the tree (see unwind in fit.sh). It is also present if
# an ancestor of HEAD had it whole, no commit after that lacks it, and nothing of it could be applied now. A patch is
# applied if all of it can be applied, maybe at other lines, but with all of its context. Else it is in conflict; the
# patches after it are looked at nevertheless.
#
# unwind in fit.sh is a subshell and has its own kind, file and strip, on purpose.
# shellcheck disable=SC2031
set -eu
# shellcheck source=fit.sh
. "${0%/*}/fit.sh"
list=$root/patches/list
facts=$root/out/facts
LIMIT=500 # commits of the history that are looked at for one patch
SHOWN=40   # reasons of one kind
GIT_LITERAL_PATHSPECS=1
export GIT_LITERAL_PATHSPECS

# Print a text as one field of a line of facts: without tabs, line ends and control characters.
plain() { printf '%s' "$*" | tr '\t\n' '  ' | tr -d '\000-\037\177'; }

# Write a fact about the patch.
fact() { # KEY VALUE…
    line=$1$tab$file
    shift
    for value; do line=$line$tab$(plain "$value"); done
    printf '%s\n' "$line" >>"$facts"
}

# Say why the patch is in conflict: to the log, and as a fact.
blame() { # MESSAGE
    reason "$(plain "$1")"
    fact reason "$1"
}

# The same for each line of standard input.
blame_lines() {
    sed -n "1,${SHOWN}p" >"$look/reasons"
    while read -r text <&8; do blame "$text"; done 8<"$look/reasons"
}

# Write the offsets that git's messages report. SIGN is -1 for a patch that was taken back: git reports these the other
# way round.
offsets() { # LOG SIGN
    sed -n -e 's/^Checking patch \(.*\)\.\.\.$/\1/p' \
        -e 's/^Hunk #\([0-9]*\) succeeded at [0-9]* (offset \(-\{0,1\}[0-9]*\) lines\{0,1\})\.$/\t\1\t\2/p' "$1" |
        awk -F '\t' -v OFS='\t' -v sign="$2" '$1 != "" { path = $0; next } { print path, $2, sign * $3 }' |
        sort -t "$tab" -k 1,1 -k 2,2n >"$look/offsets"
    while IFS=$tab read -r path hunk lines <&8; do fact offset "$path" "$hunk" "$lines"; done 8<"$look/offsets"
}

# Print the subject of the mail of a diff.
subject_of() { # DIFF
    sed -n 's/^Subject: //p' "$look/$file/${1##*/}.info" 2>/dev/null | head -n 1
}

# ---- what the tree shows

# Note that the source has the patch.
present() { # VARIANT LOG LATER
    note "$name is in the source already"
    fact state present
    offsets "$2" -1
    while IFS=$tab read -r path now commit <&8; do
        fact note "$path stands at $(printf %.12s "$now"), which holds $(printf %.12s "$commit")"
    done 8<"$3"
}

# Apply the patch to the work tree, and commit it.
apply() { # VARIANT LOG
    note "applying $name"
    if [ "$kind" = am ]; then
        set -- "$1" "$2" --quiet --keep-non-patch --no-gpg-sign --committer-date-is-author-date
        if [ "$1" = kept ]; then set -- "$@" --keep-cr; fi
        while read -r diff <&6; do
            set -- "$@" "$look/$file/mails-$1/${diff##*/}"
        done 6<"$look/$file/$1.list"
        log=$2
        shift 2
        # The committer's date is the author's, so that the patched commit is the same each time.
        set -- am "$@"
    else
        log=$2
        set -- apply --index --whitespace=nowarn "-p$strip" "$look/$file/$1/0001"
    fi
    if ! git "$@" >"$look/apply.log" 2>&1; then # it fits the tree, but git does not accept its author, or its name
        cat "$look/apply.log"
        git am --abort 2>/dev/null || git reset --quiet --hard
        fact state conflict
        blame "patch $name does not apply"
        blame_lines <"$look/apply.log"
        return
    fi
    [ "$kind" = am ] || GIT_AUTHOR_DATE="@$PIKAFORGE_EPOCH +0000" GIT_COMMITTER_DATE="@$PIKAFORGE_EPOCH +0000" \
        git commit --quiet --no-verify --allow-empty --message "$name"
    fact state applied
    offsets "$log" 1
}

# ---- what the history shows

# Print the lines of $look/backwards of this patch, and of those that may have changed its lines: patches after it that
# share a file with it, or with another such patch.
related() {
    cp "$look/$file/paths" "$look/shared"
    printf '%s\n' "$file" >"$look/related"
    sort -t "$tab" -k 2,2 "$look/backwards" | cut -f 2 | while read -r later; do
        if [ "$later" -gt "$file" ] && grep -qxF -f "$look/shared" "$look/$later/paths"; then
            cat "$look/$later/paths" >>"$look/shared"
            printf '%s\n' "$later" >>"$look/related"
        fi
    done
    awk -F '\t' 'FNR == NR { wanted[$1]; next } $2 in wanted' "$look/related" "$look/backwards"
}

# Print the commit of the history with which the patch came: the youngest that had it whole. Nothing if a commit after
# that lacks the patch.
came_with() (
    { printf 'HEAD\n--\n' && cat "$look/$file/paths"; } |
        git rev-list --topo-order "--max-count=$LIMIT" --stdin >"$look/commits"
    related >"$look/order"
    : >"$look/younger"
    while read -r commit <&9; do
        unwind "$commit" "$look/order" "$look/then"
        if grep -q "^$file$tab.*${tab}has\$" "$look/then/verdicts"; then
            taken_out "$commit" || { echo "$commit" && return; }
        fi
        printf '%s\n' "$commit" >>"$look/younger"
    done 9<"$look/commits"
)

# Return whether a commit after this one lacks the patch.
taken_out() { # COMMIT
    git rev-list --ancestry-path "$1..HEAD" >"$look/after"
    grep -xF -f "$look/after" "$look/younger" >"$look/between" || return 1
    while read -r later <&8; do
        for variant in $(variants); do
            index read-tree "$later"
            ! fit "$variant" || return 0
        done
    done 8<"$look/between"
    return 1
}

# Print the commit of the history that made exactly the change of the patch, by its patch-id; nothing if a later commit
# has undone it.
made_by() (
    for variant in $(variants); do
        : >"$look/wanted"
        while read -r diff <&6; do
            git patch-id --stable <"$diff" | cut -d ' ' -f 1 >>"$look/wanted"
        done 6<"$look/$file/$variant.list"
        { printf 'HEAD\n--\n' && cat "$look/$file/paths"; } >"$look/which"
        git log --topo-order "--max-count=$LIMIT" --no-merges --patch --full-index --no-color --no-ext-diff --stdin \
            <"$look/which" | git patch-id --stable >"$look/ids"
        found=
        while read -r id <&6; do
            commit=$(awk -v id="$id" '$1 == id { print $2; exit }' "$look/ids")
            [ -n "$commit" ] || continue 2
            undone=$(git diff-tree -p --full-index "$commit" "$commit^" | git patch-id --stable | cut -d ' ' -f 1)
            last=$(awk -v id="$id" -v undone="$undone" '$1 == id || $1 == undone { print $1; exit }' "$look/ids")
            [ "$last" = "$id" ] || continue 2
            found=$commit
        done 6<"$look/wanted"
        [ -z "$found" ] || { echo "$found" && return; }
    done
)

# Note that the source has the patch, if the history shows it; else return 1.
in_history() { # VERDICT
    [ -n "${PIKAFORGE_HISTORY:-}" ] || return 1
    commit=$(came_with)
    [ -n "$commit" ] || [ "$1" != unclear ] || commit=$(made_by)
    if [ -z "$commit" ]; then
        asked=$(wc -l <"$look/commits")
        return 1
    fi
    note "$name is in the source already"
    fact state present
    since=', and its lines were changed since'
    [ "$1" != unclear ] || since=
    fact note "it came with $(git log -1 --format='%h (%s)' "$commit")$since"
}

# Return whether a submodule is at a commit that is not known to contain the commit of the patch. Then the patch is not
# there, whatever the history shows.
astray() { # VARIANT
    index read-tree HEAD
    while IFS=$tab read -r _ new path <&7; do
        now=$(stands_at "$path")
        [ "${now:--}" = "$new" ] || grep -qxF "$path$tab$new$tab$now" "$root/patches/holds" || return 0
    done 7<"$look/$file/$1.moves"
    return 1
}

# ---- why a patch does not apply

# Print the parts of a patch that could be applied to HEAD (with -R: taken back), each alone: lines of
# MAIL<TAB>PATH<TAB>HUNK, where HUNK is `all` for all hunks of the file.
parts() { # -R|'' VARIANT
    way=${1-}
    while read -r diff <&6; do
        index read-tree HEAD
        [ -z "$way" ] || stand_back "$diff"
        index apply --cached --reject --verbose ${way:+"$way"} "-p$strip" --whitespace=nowarn "$diff" \
            >"$look/part" 2>&1 || true
        [ -z "$way" ] || ! wrong_mode "$diff" "$look/part" || continue
        sed -n -e 's/^Applying patch \(.*\) with [0-9]* rejects\{0,1\}\.\.\.$/\1/p' \
            -e 's/^Applied patch \(.*\) cleanly\.$/\tall\t\1/p' \
            -e 's/^Hunk #\([0-9]*\) applied cleanly\.$/\t\1/p' "$look/part" |
            awk -F '\t' -v OFS='\t' -v mail="${diff##*/}" '
                $1 != "" { path = $0; next }
                $2 == "all" { print mail, $3, $2; next }
                { print mail, path, $2 }'
    done 6<"$look/$file/$2.list"
    git clean -fdxq # .rej files
}

# Write the parts of a patch that are in the source to $look/there, and those that are not and could be applied to
# $look/missing.
sort_parts() { # VARIANT
    parts -R "$1" | sort -u >"$look/there"
    parts '' "$1" | sort -u |
        awk -F '\t' 'first { there[$0]; if ($3 == "all") there[$1 FS $2]; next }
            !($0 in there) && !(($1 FS $2) in there)' first=1 "$look/there" first= - >"$look/missing"
}

# Say why the patch is in conflict.
explain() { # VARIANT VERDICT
    fact state conflict
    index read-tree HEAD
    diff=
    while read -r next <&6; do
        diff=$next # the first one that does not fit after those before it
        index apply --cached "-p$strip" --whitespace=nowarn "$diff" 2>/dev/null || break
    done 6<"$look/$file/$1.list"
    subject=$(subject_of "$diff")
    if [ "$2" = unclear ]; then
        blame "patch $name${subject:+ ($subject)} fits the source both as if it were in it and as if it were not"
        blame "with more lines of context (git format-patch -U10) it would fit in one way"
        [ -z "$asked" ] || blame "none of the $((asked)) commits that changed its files tells more"
        return
    fi
    blame "patch $name${subject:+ ($subject)} does not apply"
    if [ -s "$look/there" ] && [ -s "$look/missing" ]; then
        blame "a part of it is in the source already, and a part is not"
    fi
    index apply --cached --check --verbose "-p$strip" "$diff" 2>&1 |
        sed -n -e '/^error: while searching for:/d' -e 's/^error: //p' | sort -u | blame_lines
    index apply --cached --reject --verbose "-p$strip" "$diff" >"$look/reject.log" 2>&1 || true
    sed -n -e 's/^Applying patch \(.*\) with [0-9]* rejects\{0,1\}\.\.\.$/\1/p' \
        -e 's/^Rejected hunk #\([0-9]*\)\.$/\t\1/p' "$look/reject.log" |
        awk -F '\t' '$1 != "" { path = $0; next } { print "hunk #" $2 " is rejected in " path }' | blame_lines
    git ls-files --others | grep '\.rej$' | while read -r rejected; do
        note "rejected part of $rejected:"
        sed 's/^/    /' "$rejected"
    done
    git clean -fdxq
    moves "$diff" >"$look/moves"
    while IFS=$tab read -r old new path <&7; do
        now=$(stands_at "$path")
        case $now in
        "$old" | "$new") ;;
        *) blame "the patch moves the submodule $path from $old to $new; it stands at ${now:-no commit}" ;;
        esac
    done 7<"$look/moves"
    mails=$(wc -l <"$look/$file/$1.list")
    list_parts "$look/there" 'is in the source already'
    if [ -s "$look/there" ]; then list_parts "$look/missing" 'is not'; fi
    [ -z "$asked" ] || blame "none of the $((asked)) commits that changed its files has it whole"
    blame "nothing was changed; the lines around the hunks are in the log"
}

# Say something about each part in FILE.
list_parts() { # FILE WHAT
    while IFS=$tab read -r mail path hunk <&7; do
        part="hunk #$hunk of $path"
        [ "$hunk" != all ] || part="the change of $path"
        subject=$(subject_of "$mail")
        [ "$mails" -lt 2 ] || part="$part (mail ${mail#"${mail%%[!0]*}"}${subject:+, $subject})"
        printf '%s %s\n' "$part" "$2"
    done 7<"$1" | blame_lines
}

# Deal with a patch that the tree does not have for certain, and that does not apply.
conflict() { # VERDICT
    asked=
    variant=$(variants | head -n 1)
    if [ -z "$variant" ]; then
        fact state conflict
        blame "patch $name holds no change that git reads"
        return
    fi
    sort_parts "$variant"
    if [ "$1" = unclear ] || { [ ! -s "$look/missing" ] && ! astray "$variant"; }; then
        ! in_history "$1" || return 0
    fi
    explain "$(variants | head -n 1)" "$1"
}

# ---- the series

mkdir -p "$look"
while IFS=$tab read -r kind file strip name <&3; do
    split
done 3<"$list"
sort -t "$tab" -k 2,2r "$list" >"$look/backwards"
unwind HEAD "$look/backwards" "$look/now"

while IFS=$tab read -r kind file strip name <&3; do
    found=$(awk -F '\t' -v file="$file" '$1 == file { print $2, $3 }' "$look/now/verdicts")
    case $found in
    *' has')
        present "${found% *}" "$look/now/$file.log" "$look/now/$file.later"
        continue
        ;;
    *' unclear')
        conflict unclear
        continue
        ;;
    esac
    for variant in $(variants); do
        index read-tree HEAD
        if fit "$variant"; then
            apply "$variant" "$look/log"
            continue 2
        fi
    done
    # A patch before it may have brought its change.
    for variant in $(variants); do
        index read-tree HEAD
        if fit "$variant" -R && { ! displaced "$look/log" || adds "$variant"; }; then
            present "$variant" "$look/log" "$look/later"
            continue 2
        fi
    done
    conflict lacks
done 3<"$list"
