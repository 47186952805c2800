#!/bin/sh
# Find the hardware model of a machine, so that it takes the packages of @PRODUCT@ that were built for it.
#
# The DMI product name decides ("PowerEdge R620" is the model R620), unless its CPUs lack what the model's builds use:
# a virtual machine may have its host's name and other CPUs. Where the name says nothing, the most demanding builds are
# taken whose CPU flags every processor of /proc/cpuinfo has. The model's name becomes the yum variable @VARIABLE@, or
# (--apt) part of apt's list of sources.
#
# Exit status: 0 done; 1 nothing that is published suits the machine; 2 that cannot be told (no flags to read, an unknown
# operating system, wrong arguments); 3 the file cannot be written.
#
# Nothing but a shell and cat, mkdir and mv is needed, nothing is downloaded, and nothing that it reads is run.
set -euf
umask 022
LC_ALL=C
export LC_ALL
nl='
'
tab=$(printf '\t')
cr=$(printf '\r')
blank=" $tab$nl"
IFS=$blank

# What was published when this file was made. These are quoted words and not here-documents, because bash writes the
# latter to /tmp, which a machine that is being set up may not have. Fields are separated by tabs; none is empty.
# The image of an operating system: IMAGE ID VERSION, with the version's beginning up to a dot.
systems='
@SYSTEMS@
'
# What is there: IMAGE MODEL TARGET, the most demanding first of each image; a target of `-` is no longer known.
models='
@MODELS@
'
# What a target's builds use, by the names of /proc/cpuinfo: TARGET FLAG ...
targets='
@TARGETS@
'
# What machines call themselves, in small letters: `is` the whole name or `has` a word of it, NAME, MODEL.
names='
@NAMES@
'
# Images with a repository for apt.
apt_images=' @APTIMAGES@ '
# The key that these are signed with; empty if they are not.
key='@KEY@'

root=''
image=''
cpuinfo=''
print=no
apt=no

usage() {
    printf '%s\n' \
        'usage: detect-model.sh [--image IMAGE] [--cpuinfo FILE] [--root DIR] [--apt | --print]' \
        '' \
        'Find the hardware model of a machine, and let its package manager take the packages of @PRODUCT@ for it.' \
        'Without options the model is written to /etc/yum/vars/@VARIABLE@, which yum and dnf put in place of' \
        "\$@VARIABLE@ in their files." \
        '' \
        '  --apt            write /etc/apt/sources.list.d/@PRODUCT@.list and /etc/apt/keyrings/@KEYNAME@ instead' \
        "  --print          write nothing; print the model's name alone" \
        '  --image IMAGE    the packages of this image; else of the one that is for the operating system' \
        '  --cpuinfo FILE   ask about the CPUs of another machine by a copy of its /proc/cpuinfo; - is standard input' \
        '  --root DIR       this folder is / in every other path, but for that of --cpuinfo' \
        '  --help           print this' \
        '' \
        'Exit status: 0 done; 1 nothing that is published suits the machine; 2 that cannot be told, or wrong arguments;' \
        '3 the file cannot be written.'
}

say() { printf '%s\n' "$1" >&2; }

end() { # STATUS WHY [HINT]
    say "detect-model: error: $2"
    [ -z "${3:-}" ] || say "  hint: $3"
    exit "$1"
}

# The words of a text with one blank between them, as $squeezed.
squeeze() { squeezed="$*"; }

# The images that something is published for, as $listed.
list_images() {
    listed=' '
    IFS=$nl
    for line in $models; do
        name=${line%%"$tab"*}
        case $listed in
        *" $name "*) ;;
        *) listed="$listed$name " ;;
        esac
    done
    IFS=$blank
    # shellcheck disable=SC2086  # split on purpose
    squeeze $listed
    listed=$squeezed
}

# Whether anything is published for image $1.
published() {
    case $models in
    *"$nl$1$tab"*) return 0 ;;
    *) return 1 ;;
    esac
}

# ID and VERSION_ID of os-release(5), as $os_id and $os_version. The file is read and not run: under --root it is not ours.
read_os() {
    os_id='' os_version=''
    text=$(cat -- "$root/etc/os-release" 2>/dev/null) || return 0
    IFS=$nl$cr
    # shellcheck disable=SC2086  # split into lines on purpose
    set -- $text
    IFS=$blank
    for line do
        value=${line#*=}
        case $value in
        \"*\" | \'*\')
            value=${value#?}
            value=${value%?}
            ;;
        esac
        case $line in
        ID=*) os_id=$value ;;
        VERSION_ID=*) os_version=$value ;;
        esac
    done
}

# The image that is asked about, as $image.
find_image() {
    list_images
    if [ -n "$image" ]; then
        published "$image" || end 2 "nothing is published for an image '$image'" "there is: $listed"
        return 0
    fi
    read_os
    IFS=$nl
    for line in $systems; do
        version=${line##*"$tab"}
        id=${line#*"$tab"}
        id=${id%"$tab"*}
        [ "$id" = "$os_id" ] || continue
        case $os_version in
        "$version" | "$version".*)
            image=${line%%"$tab"*}
            break
            ;;
        esac
    done
    IFS=$blank
    [ -n "$image" ] || end 2 "$root/etc/os-release names no operating system that there are packages for: \
${os_id:-no ID} ${os_version:-no VERSION_ID}" "name the nearest with --image: $listed"
    published "$image" || end 1 "nothing is published for $image, which this operating system is" "there is: $listed"
}

# What the machine calls itself: as it may be shown, in small letters, and these with a blank for all that is not part of
# a model's name: $shown, $small and $words.
read_dmi() {
    text=''
    for file in "$root/sys/class/dmi/id/product_name" "$root/sys/devices/virtual/dmi/id/product_name"; do
        [ -r "$file" ] || continue
        text=$(cat -- "$file" 2>/dev/null) || text=''
        [ -z "$text" ] || break
    done
    # The loop below takes the third power of the length: 10 ms for this one, minutes for the longest that there may be.
    [ "${#text}" -le 256 ] || text=''
    shown='' small='' words=''
    pairs=AaBbCcDdEeFfGgHhIiJjKkLlMmNnOoPpQqRrSsTtUuVvWwXxYyZz
    while [ -n "$text" ]; do
        letter=${text%"${text#?}"}
        text=${text#?}
        case $letter in
        [!\ -~]) letter=' ' ;; # a terminal might obey it
        esac
        shown=$shown$letter
        case $letter in
        [ABCDEFGHIJKLMNOPQRSTUVWXYZ])
            letter=${pairs#*"$letter"}
            letter=${letter%"${letter#?}"}
            ;;
        esac
        small=$small$letter
        case $letter in
        [abcdefghijklmnopqrstuvwxyz0123456789._-]) words=$words$letter ;;
        *) words="$words " ;;
        esac
    done
    # shellcheck disable=SC2086  # split on purpose, here and below
    squeeze $shown
    shown=$squeezed
    # shellcheck disable=SC2086
    squeeze $small
    small=$squeezed
    # shellcheck disable=SC2086
    squeeze $words
    words=" $squeezed "
}

# The target of model $1, as $target; whether it is published for the image at all.
find_target() {
    case $models in
    *"$nl$image$tab$1$tab"*)
        target=${models#*"$nl$image$tab$1$tab"}
        target=${target%%"$nl"*}
        ;;
    *) return 1 ;;
    esac
}

# The model that the machine calls itself, as $named, with its target; $elsewhere is one that is not published here.
find_name() {
    named='' elsewhere=''
    IFS=$nl
    for line in $names; do
        name=${line#*"$tab"}
        model=${name#*"$tab"}
        name=${name%"$tab"*}
        case $line in
        is"$tab"*) [ "$name" = "$small" ] || continue ;;
        *)
            case $words in
            *" $name "*) ;;
            *) continue ;;
            esac
            ;;
        esac
        if find_target "$model"; then
            named=$model
            break
        fi
        [ -n "$elsewhere" ] || elsewhere=$model
    done
    IFS=$blank
}

cannot_tell() { # WHY [HINT]
    end 2 "cannot tell what the CPUs can do: $1" "${2:-}"
}

# The different sets of flags that processors have, as the lines of $kinds. Read once.
kinds=''
read_cpuinfo() {
    [ -z "$kinds" ] || return 0
    [ -n "$cpuinfo" ] || cpuinfo=$root/proc/cpuinfo
    [ "$cpuinfo" = - ] || [ -r "$cpuinfo" ] || cannot_tell "$cpuinfo cannot be read" \
        'is /proc mounted? A copy of the file from the machine itself will do: --cpuinfo FILE'
    # All at once: a shell that reads by lines makes a system call for each byte.
    text=$(cat -- "$cpuinfo" && printf x) || cannot_tell "$cpuinfo cannot be read"
    text=${text%x}
    case ${text##*"$nl"} in
    flags*) cannot_tell "$cpuinfo ends within a line of flags" 'copy it again, whole' ;;
    esac
    kinds=$nl processors=0 lines=0
    IFS=$nl$cr
    # shellcheck disable=SC2086  # split into lines on purpose
    set -- $text
    IFS=$blank
    for line do
        case $line in
        processor[\ :"$tab"]*) processors=$((processors + 1)) ;;
        flags[\ :"$tab"]*)
            lines=$((lines + 1))
            flags=${line#*:}
            case $kinds in
            *"$nl$flags$nl"*) ;;
            *) kinds=$kinds$flags$nl ;;
            esac
            ;;
        esac
    done
    [ "$lines" -gt 0 ] || cannot_tell "$cpuinfo has no line of flags" \
        'is it an x86-64 machine, and the file not cut short?'
    # Lines of flags alone will do, too, as `grep flags /proc/cpuinfo` prints them.
    [ "$lines" -ge "$processors" ] || cannot_tell "$cpuinfo has flags of $lines of $processors processors" \
        'is the file cut short?'
}

# Which flags of target $1 some processor is without, as $lack. Whole words: avx is not found in avx2.
find_lack() {
    lack=''
    wanted=${targets#*"$nl$1$tab"}
    for word in ${wanted%%"$nl"*}; do
        IFS=$nl
        for kind in $kinds; do
            case " $kind " in
            *" $word "*) ;;
            *)
                lack="$lack $word"
                break
                ;;
            esac
        done
        IFS=$blank
    done
}

# The model with the most demanding builds that all processors run, as $model with $target; else $target and $lack are
# of the least demanding ones.
find_fit() {
    last=''
    IFS=$nl
    for line in $models; do
        IFS=$blank
        case $line in
        "$image$tab"*) ;;
        *) continue ;;
        esac
        target=${line##*"$tab"}
        case $target in
        - | "$last") continue ;;
        esac
        last=$target
        find_lack "$target"
        if [ -z "$lack" ]; then
            model=${line#*"$tab"}
            model=${model%"$tab"*}
            return 0
        fi
    done
    IFS=$blank
    target=$last
    return 1
}

virtual() {
    case $kinds in
    *" hypervisor "*) say '  hint: this is a virtual machine; its CPU model may hide what the host can do' ;;
    esac
}

# The machine's model, as $model, and $why.
choose() {
    read_dmi
    find_name
    if [ -n "$named" ]; then
        model=$named
        why="by its DMI product name '$shown'"
        if [ "$target" = - ]; then
            say "detect-model: note: what the builds for $model need is not known any more; the CPUs were not looked at"
            return 0
        fi
        read_cpuinfo
        find_lack "$target"
        [ -n "$lack" ] || return 0
        say "detect-model: WARNING: the DMI product name '$shown' says $named, but the CPUs lack what its builds"
        say "  need ($target):$lack"
        virtual
    elif [ -n "$elsewhere" ]; then
        say "detect-model: note: this is $elsewhere by its DMI product name '$shown', for which nothing is published"
        say "  for $image; going by the CPUs"
    fi
    read_cpuinfo
    if find_fit; then
        why="by its CPUs, the best that all of them run ($target)"
        return 0
    fi
    [ -n "$target" ] || end 1 "no model of $image can be chosen by the CPUs, and the DMI product name \
'$shown' is that of none" 'name the model by hand; --help tells where'
    say "detect-model: error: these CPUs run nothing that is published for $image"
    say "  the least demanding builds ($target) need what they lack:$lack"
    virtual
    exit 1
}

# Write $2 into file $1 with mode 0644, beside and then in its place; $told says whether that was needed.
put() {
    told='there already:'
    if [ -f "$1" ] && text=$(cat -- "$1" && printf x) && [ "$text" = "$2${nl}x" ]; then
        return 0
    fi
    [ ! -d "$1" ] || end 3 "cannot write $1: it is a folder"
    mkdir -p -- "${1%/*}" || end 3 "cannot make the folder ${1%/*}" 'only root can; or write nothing: --print'
    # With a dot, so that neither yum nor apt reads it.
    beside=${1%/*}/.${1##*/}.new.$$
    trap 'rm -f -- "$beside"' EXIT
    set -C # an old file, or a link, of this name is not ours
    printf '%s\n' "$2" >"$beside" || end 3 "cannot write $beside" 'only root can; or write nothing: --print'
    set +C
    mv -f -- "$beside" "$1" || end 3 "cannot put $1 in place"
    trap - EXIT
    told='wrote'
}

while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --print) print=yes ;;
    --apt) apt=yes ;;
    --image | --cpuinfo | --root)
        [ -n "${2:-}" ] || end 2 "$1 needs a value" 'detect-model.sh --help'
        case $1 in
        --image) image=$2 ;;
        --cpuinfo) cpuinfo=$2 ;;
        --root)
            [ -d "$2" ] || end 2 "--root $2 is no folder"
            root=${2%/}
            ;;
        esac
        shift
        ;;
    *) end 2 "unknown argument '$1'" 'detect-model.sh --help' ;;
    esac
    shift
done

find_image
case $apt_images in
*" $image "*) has_apt=yes ;;
*) has_apt=no ;;
esac
if [ "$apt" = yes ]; then
    [ "$has_apt" = yes ] || end 1 "there is no repository for apt of $image" 'for yum and dnf: without --apt'
    [ -n "$key" ] || end 1 'the repositories are not signed, and apt takes nothing from such' \
        'sign them, or install a package from its file: apt-get install ./FILE.deb'
fi
choose
if [ "$print" = yes ]; then
    printf '%s\n' "$model"
    exit 0
fi
printf '%s\n' "detect-model: this machine is $model of $image, $why"
if [ "$apt" = yes ]; then
    put "$root/etc/apt/keyrings/@KEYNAME@" "$key"
    # The key comes first: a list that names a key that is not there makes apt fail.
    put "$root/etc/apt/sources.list.d/@PRODUCT@.list" "# @PRODUCT@ for $image, $model
deb [arch=amd64 signed-by=/etc/apt/keyrings/@KEYNAME@] @URL@/$image/$model/debs ./"
    printf '%s\n' "detect-model: $told $root/etc/apt/sources.list.d/@PRODUCT@.list"
    exit 0
fi
put "$root/etc/yum/vars/@VARIABLE@" "$model"
printf '%s\n' "detect-model: $told $root/etc/yum/vars/@VARIABLE@"
[ "$has_apt" = no ] || printf '%s\n' 'detect-model: this is for yum and dnf; for apt: --apt'
