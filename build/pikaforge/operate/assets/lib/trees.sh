# shellcheck shell=sh disable=SC2015,SC2034,SC2154,SC2317
# Trees: programs that lie beside each other on a host, one for each package. Sourced after common.sh.
#
# A package file is not trusted: it is unpacked into a new folder of root's, after all its members were looked at.

beside=${top%/*}        # where trees are
main=$beside/$product   # the tree of RPM and DEB; else a link to the one that is in use, or a tree itself
most_members=200000
fresh=''                # the tree that this command has unpacked

# Print what tells trees apart, and names their folders.
tree_name() { # TREE
    printf '%s-%s-%s\n' "$(fact_of "$1" version)" "$(fact_of "$1" release)" "$(fact_of "$1" model)"
}

# Print the path of a tree without links; status 1 if it is no folder.
tree_real() (
    CDPATH='' cd -P -- "$1" 2>/dev/null && pwd -P
)

# Refuse what is no tree of this product, or could be changed by others than root, who runs its scripts.
tree_check() { # TREE
    for each in run instance deploy lib/product; do
        [ -f "$1/utils/$each.sh" ] && [ ! -L "$1/utils/$each.sh" ] ||
            die "$1 is no tree of $product: utils/$each.sh is missing" "unpack the package again"
    done
    [ "$(fact_of "$1" product)" = "$product" ] || die "$1 is no tree of $product, but of '$(fact_of "$1" product)'"
    is_plain_path "$1" || die "the folder of a program must have a plain name, not '$1'" "letters, digits, / . _ @ + -"
    # Not all finds have -uid. One that finds nothing at all is no answer.
    bad=$(find "$1" ! -type l -exec stat -c '%u %a %n' '{}' + | awk '
        $1 != 0 || $2 ~ /[2367].$/ || $2 ~ /[2367]$/ { sub(/^[0-9]+ [0-9]+ /, ""); print; found = 1; exit }
        END { if (!NR) print "(nothing)" }')
    [ -z "$bad" ] || die "$bad can be changed by others than root" "chown -R 0:0 $1; chmod -R go-w $1"
}

# Print the tree of a version that lies beside: of this model, if there are several. Nothing if there is none.
tree_of_version() ( # VERSION
    found=
    for each in "$main-$1" "$main-$1-"*; do
        [ -f "$each/utils/run.sh" ] || continue
        [ -z "$found" ] || [ "${each##*-}" = "$model" ] || continue
        found=$each
    done
    [ -z "$found" ] || tree_real "$found"
)

# ---- package files

# The option by which tar reads a file; status 1 if it is none of the kinds.
tar_option() { # FILE
    case $1 in
    *.tar.gz | *.tgz) echo -z ;;
    *.tar.xz | *.txz) echo -J ;;
    *.tar.bz2 | *.tbz2) echo -j ;;
    *.tar) ;;
    *) return 1 ;;
    esac
}

# Print the size of all members in KiB if they may be unpacked. Else print what is wrong, with status 1. NAMES is what
# `tar -t` prints, LINES what `tar -tv` prints: they must tell of the same members, whatever is in their fields.
members_size() { # NAMES LINES
    awk -v most="$most_members" '
        function wrong(what) { if (!said) print what; said = 1; exit 1 }
        function clean(name) { sub(/^\.\//, "", name); sub(/\/$/, "", name); return name }
        function plain(name) { return name ~ /^[A-Za-z0-9._+@~=,:%\/-]+$/ && name !~ /^\// && name !~ /\/\// }
        function stays(name, target, part, n, up, i) {
            if (!plain(target)) return 0
            up = split(name, part, "/") - 2
            n = split(target, part, "/")
            # Steps up come first: what comes later may be links themselves.
            for (i = 1; i <= n && part[i] == ".."; i++) up--
            for (; i <= n; i++) if (part[i] == "..") return 0
            return up >= 0
        }
        NR == FNR {
            if (++count > most) wrong("more than " most " members")
            name = clean($0)
            if ($0 == "./" || $0 == ".") name = "."
            else if (!plain(name)) wrong("a name that is not plain: " $0)
            else if (("/" name "/") ~ /\/\.\.?\//) wrong("a name that leads elsewhere: " $0)
            names[count] = name
            next
        }
        {
            lines++
            kind = substr($1, 1, 1)
            target = ""
            name = $NF
            if ($(NF - 1) == "->") { target = $NF; name = $(NF - 2) }
            if (kind == "h" || (kind == "-" && target != "")) wrong("a hard link: " names[lines])
            if (kind !~ /[dl-]/) wrong("neither file, folder nor link: " names[lines])
            if (kind != "l" && substr($1, 2) ~ /[sStT]/) wrong("a mode that gives rights away: " $1 " " names[lines])
            if ($3 !~ /^[0-9]+$/ || clean(name) != (names[lines] == "." ? clean($NF) : names[lines])) wrong("a list that cannot be read: " $0)
            name = names[lines]
            if (name == ".") next
            if (name in kinds && (kind != "d" || kinds[name] != "d")) wrong("a name twice: " name)
            kinds[name] = kind
            split(name, part, "/")
            if (first == "") first = part[1]
            if (part[1] != first) wrong("more than one folder: " first ", " part[1])
            if (kind != "d" && index(name, "/") == 0) wrong("no folder at its top: " name)
            if (kind == "l" && !stays(name, target)) wrong("a link that leads out of its folder: " name " -> " target)
            sum += int($3 / 1024) + 4
        }
        END {
            if (said) exit 1
            if (!lines || lines != count) wrong("a list that cannot be read")
            for (name in kinds) {
                path = name
                while (match(path, /\/[^\/]*$/)) {
                    path = substr(path, 1, RSTART - 1)
                    if (path in kinds && kinds[path] != "d") wrong("a member below a link or file: " name)
                }
            }
            printf "%.0f\n", sum
        }' "$1" "$2"
}

# Compare a file's sum with --sha256, else with SHA256SUMS beside the package.
digest_check() { # COPY FILE
    has=$(sha256sum <"$1")
    has=${has%% *}
    wanted=$sha256
    sums=${2%/*}/SHA256SUMS
    if [ -z "$wanted" ] && [ -f "$sums" ]; then
        wanted=$(NAME=${2##*/} awk '
            { file = $0; sub(/^[^ ]* [ *]/, "", file); sub(/^.*\//, "", file) }
            file == ENVIRON["NAME"] && $1 ~ /^[0-9a-f]+$/ && length($1) == 64 { print $1; exit }' "$sums")
        [ -n "$wanted" ] || die "$sums does not list ${2##*/}" "--sha256 SUM, as where the package is from says"
    fi
    if [ -z "$wanted" ]; then
        warn "nothing says what $2 should be: there is no SHA256SUMS beside it; its sum is $has"
    elif [ "$has" != "$wanted" ]; then
        die "$2 is not the right one: its SHA-256 is $has, not $wanted" "get it again"
    fi
}

# Unpack a package beside, and set $new to its folder. What is there already is not touched.
tree_unpack() { # FILE
    option=$(tar_option "$1") || misused "$1 is no package that is known here" "a tarball, .rpm or .deb"
    temporary
    locked trees
    # What a killed run has left. The lock says that none is under way.
    rm -rf "$beside/.$product-new".*
    work=$(umask 077 && mktemp -d "$beside/.$product-new.XXXXXX") || die "no folder can be made in $beside"
    undo() { rm -rf "$work"; }
    # A copy of root's: nobody changes it after it was looked at.
    [ "$(($(wc -c <"$1") / 1024 + 1024))" -lt "$(free_kib "$work")" ] || die "$beside has no room for a copy of $1"
    cp -- "$1" "$work/package" || die "$1 cannot be copied to $beside"
    digest_check "$work/package" "$1"
    # stdin, because some tars take a colon in a name for a host.
    tar ${option:+"$option"} -t -f - <"$work/package" >"$scratch/names" 2>"$scratch/errors" &&
        tar ${option:+"$option"} -tv --numeric-owner -f - <"$work/package" >"$scratch/lines" 2>>"$scratch/errors" ||
        die "$1 cannot be read: $(tail -n 1 "$scratch/errors")" "get it again"
    size=$(members_size "$scratch/names" "$scratch/lines") || die "$1 is refused: it has $size" "get it again"
    [ "$((size + 16384))" -lt "$(free_kib "$work")" ] || die "$beside has no room for $1, which needs $((size / 1024)) MiB"
    mkdir "$work/tree"
    (cd "$work/tree" && tar ${option:+"$option"} -x -o -f - <"$work/package") || die "$1 cannot be unpacked in $beside"
    rm -f "$work/package"
    tree_settle "$1"
}

# Print what a tree has other than its manifest says: each file by its SHA-256, each link, none more and none less. It is
# read as the packer writes it, one value a line; what cannot be read so is not there.
tree_differs() { # TREE
    [ -f "$1/manifest.json" ] && [ ! -L "$1/manifest.json" ] || { echo "manifest.json is missing" && return; }
    (
        cd "$1"
        find . -type f ! -path ./manifest.json -exec sha256sum '{}' +
        find . -type l -print | while IFS= read -r each; do
            printf '>%s  %s\n' "$(readlink "$each")" "$each"
        done
    ) >"$scratch/has" 2>"$scratch/errors" || { head -n 1 "$scratch/errors" && return; }
    awk '
        FILENAME == ARGV[1] {
            if ($0 ~ /^  "contents": \[/) inside = 1
            if ($0 ~ /^  \]/) inside = 0
            if (!inside) next
            name = $1; value = $0
            sub(/^[^:]*: "/, "", value); sub(/",?$/, "", value)
            if (name == "\"sha256\":") what = value
            if (name == "\"link\":") what = ">" value
            if (name == "\"path\":") path = value
            if ($0 ~ /^    \}/) { wanted[path] = what; path = what = "" }
            next
        }
        {
            path = substr($0, index($0, "  ") + 4)
            if (!(path in wanted)) { print path " is not in manifest.json"; said = 1; exit }
            if (wanted[path] != substr($0, 1, index($0, "  ") - 1)) { print path " is not what manifest.json says"; said = 1; exit }
            delete wanted[path]
        }
        END { if (!said) for (path in wanted) { print path " is missing"; exit } }' "$1/manifest.json" "$scratch/has"
}

# Look at what was unpacked, and give it its name.
tree_settle() { # FILE
    odd=$(find "$work/tree" ! -type f ! -type d ! -type l -print | head -n 1)
    [ -n "$odd" ] || odd=$(find "$work/tree" -type f '(' -links +1 -o -perm -4000 -o -perm -2000 ')' -print | head -n 1)
    [ -n "$odd" ] || odd=$(find "$work/tree" -name '*[!A-Za-z0-9._+@~=,:%-]*' -print | head -n 1)
    [ -z "$odd" ] || die "$1 is refused: $odd"
    unpacked=$(echo "$work/tree"/*)
    chown -R 0:0 "$unpacked"
    chmod -R u+rwX,go+rX,go-w "$unpacked"
    tree_check "$unpacked"
    name=$(tree_name "$unpacked")
    case $name in
    -* | *-- | *--*) die "$1 does not say what it is: $name" ;;
    esac
    bad=$(tree_differs "$unpacked")
    [ -z "$bad" ] || die "$1 is refused: $bad" "get it again"
    new=$main-$name
    if [ -e "$new" ] || [ -L "$new" ]; then
        tree_check "$new"
        cmp -s "$new/manifest.json" "$unpacked/manifest.json" ||
            die "$new is there, and is not what $1 has" "if no instance uses it: mv $new away"
        bad=$(tree_differs "$new")
        [ -z "$bad" ] || die "$new is there, and is damaged: $bad" "if no instance uses it: mv $new away"
    else
        mv "$unpacked" "$new"
        fresh=$new
        say "unpacked to $new"
    fi
    rm -rf "$work"
    undo() { tree_forget "$1"; }
}

# ---- package managers

# Print the package manager that has brought a tree, and the package's name; nothing if none has.
manager_of() ( # TREE
    for program in rpm dpkg-query; do
        command -v "$program" >/dev/null 2>&1 || continue
        if [ "$program" = rpm ]; then
            name=$(rpm -qf --qf '%{NAME}\n' "$1/manifest.json" 2>/dev/null | head -n 1) || continue
        else
            name=$(dpkg-query -S "$1/manifest.json" 2>/dev/null | head -n 1) || continue
            name=${name%%:*}
        fi
        case $name in
        '' | *[!A-Za-z0-9.+_-]*) continue ;;
        esac
        printf '%s %s\n' "$program" "$name"
        exit 0
    done
)

# Keep the tree that a package manager is about to replace, by hard links: it writes files anew. Instances that run it are
# set to what is kept, so that none starts the new program before its turn. Sets $kept.
tree_keep() {
    kept=$main-$(tree_name "$main")
    if [ ! -d "$kept" ]; then
        rm -rf "$kept.new"
        cp -al "$main" "$kept.new" && mv "$kept.new" "$kept" || die "$main cannot be kept as $kept"
        say "$main is kept as $kept"
    else
        cmp -s "$main/manifest.json" "$kept/manifest.json" || die "$kept is there, and is not what $main is" "mv $kept away"
    fi
    for each in $(instances); do
        its=$(env_get "$etc/$each.env" TREE)
        [ "$(tree_real "${its:-$main}")" != "$main" ] || tree_put "$each" "$kept"
    done
}

# Set the tree of an instance; the rest of its file stays.
tree_put() { # PORT TREE
    file=$etc/$1.env
    awk -v tree="$2" '
        /^TREE=/ { if (!done) print "TREE=" tree; done = 1; next }
        { print }
        END { if (!done) print "TREE=" tree }' "$file" >"$file.new.$port" && mv "$file.new.$port" "$file" ||
        die "$file cannot be written"
}

# Let the package manager install a version, or a file.
manager_install() { # MANAGER NAME WHAT
    case $1 in
    rpm)
        tool_of=dnf
        command -v dnf >/dev/null 2>&1 || tool_of=yum
        what=$2-$3
        [ ! -f "$3" ] || what=$3
        "$tool_of" -y install "$what" || return 1
        # An older version is not installed over a newer one by that.
        cmp -s "$main/manifest.json" "$kept/manifest.json" || return 0
        "$tool_of" -y downgrade "$what" || :
        ;;
    *)
        what=$2=$3
        [ ! -f "$3" ] || what=$3
        DEBIAN_FRONTEND=noninteractive apt-get -y --allow-downgrades install "$what"
        ;;
    esac
}

# Where $main is a link, let it lead to a tree that all instances use now.
tree_link() { # TREE
    [ -L "$main" ] && [ "$(tree_real "$main")" != "$1" ] || return 0
    for each in $(instances); do
        [ "$(env_get "$etc/$each.env" TREE)" = "$1" ] || return 0
    done
    rm -f "$main.new.$port"
    ln -s "$1" "$main.new.$port" || return 0
    mv -fT "$main.new.$port" "$main" 2>/dev/null || { rm -f "$main.new.$port" && ln -sfn "$1" "$main"; }
    say "$main leads to $1"
}
