#!/bin/sh
# Fetch a source package of Debian with apt.
#
#   fetch.sh PACKAGE DEST
#
# Results, which appear all at once:
#   DEST/PACKAGE.orig.tar.gz the release as its authors made it, or as .tar.xz
#   DEST/patches/            the quilt series of the package
#   DEST/version             the version of the package
#   DEST/SHA256SUMS          digests of all of these
# If DEST is complete, nothing is done. The digests are always printed.
#
# No server is named here. The entries of this machine for Debian's archive are used in a private folder of apt, for
# source packages and for the suite that matrix.yaml builds on. Nothing of the machine is changed. apt verifies as
# always: the key of the archive signs the index, and the index holds the digests of the files.
#
# Exit status: 0 done; 1 the package does not have the files that are expected, or DEST holds other files; 2 wrong use;
# 3 this machine lacks a tool or an entry, or apt could not fetch, and its output says why.
set -eu
umask 022
LC_ALL=C
export LC_ALL
suite=bookworm

fail() {
    status=$1
    shift
    printf 'fetch.sh: %s\n' "$@" >&2
    exit "$status"
}

if [ $# -ne 2 ] || [ -z "$1" ] || [ -z "$2" ]; then
    fail 2 'usage: fetch.sh PACKAGE DEST'
fi
case $1 in
    *[!a-z0-9.+-]*) fail 2 "$1 is not a name of a package" ;;
esac
package=$1
shift
mkdir -p "$(dirname "$1")"
dest=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd -P)/$(basename "$1")

intact() {
    [ -f "$dest/SHA256SUMS" ] && (cd "$dest" && sha256sum --check --status SHA256SUMS 2>/dev/null)
}
if intact; then
    cat "$dest/SHA256SUMS"
    exit 0
fi

# Only files that this script made are replaced.
if [ -e "$dest" ] && ! grep -q "  $package\.orig\.tar\.[gx]z\$" "$dest/SHA256SUMS" 2>/dev/null; then
    rmdir "$dest" 2>/dev/null || fail 1 "$dest holds other files: remove it, or name another folder"
fi

for tool in apt-get awk sha256sum tar xz; do
    command -v "$tool" >/dev/null 2>&1 || fail 3 "$tool is not installed; this test needs a machine with apt"
done

# Beside DEST, so that the last step is a rename.
work=$(mktemp -d "$dest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial" "$work/package" "$work/new"
chmod 755 "$work"
# apt downloads without root's rights, if it can write to the folder without them.
if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then
    chown _apt "$work/package"
fi

# ---- the entries of this machine for Debian's archive, as entries for source packages

# Entries for other archives (which fail, or have packages of the same name) are recognised by their key. On Debian, an
# entry without a key is one for Debian's archive if it has its suites and `main`.
id=$(sed -n 's/^ID=//p' /etc/os-release | tr -d '"')
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release | tr -d '"')
list='' parts=''
eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"

# The two forms of an entry: fields (sources.list(5), "deb822") and lines.
# shellcheck disable=SC2016
common='
    function known(suites, components, signer,   i, n, word, base) {
        if ((" " components " ") !~ / main /) return ""
        if (signer != "" && signer !~ /debian-archive/) return ""
        wanted = ""
        n = split(suites, word, " ")
        for (i = 1; i <= n; i++) {
            base = word[i]
            sub(/-(updates|security)$/, "", base)
            if (base ~ /[^a-z]/) continue
            if (signer == "" && (id != "debian" ||
                base !~ "^(" codename "|stable|oldstable|testing|sid|unstable)$")) continue
            wanted = wanted (wanted == "" ? "" : " ") suite substr(word[i], length(base) + 1)
        }
        return wanted
    }'
# shellcheck disable=SC2016
fields='
    function finish(   suites, key) {
        if ((" " value["types"] " ") ~ / deb(-src)? / && tolower(value["enabled"]) !~ /^(no|false|0|off)/) {
            suites = known(value["suites"], value["components"], value["signed-by"])
            if (suites != "") printf "Types: deb-src\nSuites: %s\nComponents: main\n%s\n", suites, rest
        }
        for (key in value) delete value[key]
        rest = ""; name = ""
    }
    /^#/ { next }
    /^[ \t]*$/ { finish(); next }
    {
        text = $0
        if (text ~ /^[^ \t:]+:/) {
            name = tolower(text); sub(/:.*/, "", name)
            sub(/^[^:]*:/, "", text)
        }
        gsub(/[ \t]+/, " ", text); sub(/^ /, "", text); sub(/ $/, "", text)
        value[name] = value[name] (value[name] == "" ? "" : " ") text
        if (name !~ /^(types|suites|components|enabled)$/) rest = rest $0 "\n"
    }
    END { finish() }'
# shellcheck disable=SC2016
lines='
    { sub(/[ \t]#.*/, "") }
    /^[ \t]*deb(-src)?[ \t]/ {
        options = ""; signer = ""
        if (match($0, /\[[^]]*\]/)) {
            options = substr($0, RSTART, RLENGTH) " "
            $0 = substr($0, 1, RSTART - 1) " " substr($0, RSTART + RLENGTH)
            signer = options
            if (!sub(/.*signed-by=/, "", signer)) signer = ""
        }
        if ($2 ~ /^cdrom:/ || $3 ~ /\/$/) next
        components = ""
        for (i = 4; i <= NF; i++) components = components " " $i
        found = known($3, components, signer)
        if (found != "") print "deb-src " options $2 " " found " main"
    }'
number=0
for file in "$list" "$parts"/*.list "$parts"/*.sources; do
    [ -f "$file" ] || continue
    number=$((number + 1))
    case $file in
        *.sources) form=$fields kind=sources ;;
        *) form=$lines kind=list ;;
    esac
    awk -v id="$id" -v codename="$codename" -v suite="$suite" "$common$form" "$file" >"$work/entries"
    [ ! -s "$work/entries" ] || mv "$work/entries" "$work/sources/$number.$kind"
done
[ -n "$(ls "$work/sources")" ] ||
    fail 3 "apt on this machine has no entry for Debian's archive (looked in $list and $parts)"

# ---- apt

# This file is given with -c, so apt reads it last, and it wins over the settings of the machine. Of those, the proxies
# and the trusted keys stay. The hooks that are cleared would change the machine.
cat >"$work/apt.conf" <<END
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/sources";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
END
cd "$work/package"
if ! apt-get -c "$work/apt.conf" --quiet update >"$work/log" 2>&1; then
    cat "$work/log" >&2
    fail 3 "apt cannot read the index of Debian's source packages: is there a way to the network?"
fi
if ! apt-get -c "$work/apt.conf" --quiet source --download-only --only-source "$package" >"$work/log" 2>&1; then
    cat "$work/log" >&2
    fail 3 "apt cannot fetch the source package $package"
fi

# ---- the files

set -- "$package"_*.dsc "$package"_*.orig.tar.[gx]z "$package"_*.debian.tar.xz
if [ $# -ne 3 ] || [ ! -f "$1" ] || [ ! -f "$2" ] || [ ! -f "$3" ]; then
    fail 1 "not the files that were expected: $(printf '%s ' *)" "is $package packed in another way now?"
fi
sha256sum "$@"
sed -n 's/^Version: //p' "$1" | sed 1q >"$work/new/version"
cp "$2" "$work/new/$package.orig.tar.${2##*.}"
tar --extract --xz --file "$3" --directory "$work" --no-same-owner --no-same-permissions debian/patches
[ -s "$work/debian/patches/series" ] || fail 1 "$3 has no patch series"
mv "$work/debian/patches" "$work/new/patches"
cd "$work/new"
find . -type f | sed 's|^\./||' | sort | xargs sha256sum >"$work/sums"
mv "$work/sums" SHA256SUMS

cd "$work"
if [ -e "$dest" ]; then
    rm -rf "$dest/patches" "$dest/$package".orig.tar.[gx]z "$dest/version" "$dest/SHA256SUMS"
    rmdir "$dest" 2>/dev/null || fail 1 "$dest holds other files: remove it, or name another folder"
fi
mv "$work/new" "$dest"
cat "$dest/SHA256SUMS"
