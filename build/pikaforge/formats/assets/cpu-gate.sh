#!/bin/sh
# Say whether the CPUs of a machine can run this package, before anything of it is started.
#
# It compares the flags of every processor in /proc/cpuinfo with utils/cpu-features: the instruction set extensions
# that an audit found in the program and its libraries, by the kernel's names. utils/cpu-targets lists the other
# packages of the same kind, the most demanding first, for the advice.
#
# Exit status: 0 the machine runs it; 1 it does not; 2 that cannot be told (no flags to read, a damaged list, wrong
# arguments). Callers take every status but 0 as a refusal: a server that dies of SIGILL in the middle of its work is
# worse than one that does not start. PIKAFORGE_SKIP_CPU_GATE=1 overrides a refusal, with a warning. Its old name,
# FORGE_SKIP_CPU_GATE, does the same, with a notice.
#
# Nothing but a shell and cat is needed, so that it runs also where the package's own programs cannot.
set -euf
LC_ALL=C
export LC_ALL
nl='
'
tab=$(printf '\t')
cr=$(printf '\r')
blank=" $tab$nl"
IFS=$blank

package='@PRODUCT@ @VERSION@ for @MODEL@ (@TARGET@, @IMAGE@)'
target='@TARGET@'
case $0 in
*/*) here=${0%/*} ;;
*) here=. ;;
esac
features=$here/cpu-features
targets=$here/cpu-targets
# The first script of a package holds this text with both lists here, because the files are not there yet.
given_features='' given_targets=''
cpuinfo=/proc/cpuinfo
machine='this machine'
quiet=no
list=no

usage() {
    printf '%s\n' \
        'usage: cpu-gate.sh [--cpuinfo FILE] [--features FILE] [--quiet]' \
        '       cpu-gate.sh --list [--features FILE]' \
        '' \
        "Say whether the CPUs of a machine can run $package." \
        '' \
        '  --cpuinfo FILE   ask about another machine by a copy of its /proc/cpuinfo; - is standard input' \
        '  --features FILE  compare with another list: one flag a line by the names of /proc/cpuinfo, # comments' \
        '  --quiet          say nothing if it can' \
        '  --list           print the flags that it needs, and do nothing else' \
        '  --help           print this' \
        '' \
        'Exit status: 0 it can; 1 it cannot; 2 that cannot be told.' \
        'PIKAFORGE_SKIP_CPU_GATE=1 in the environment turns a refusal into a warning.'
}

# A list may be damaged: what a terminal might obey is shown as ?.
say() {
    plain=$1
    case $1 in
    *[!\ -~]*)
        plain='' rest=$1
        [ "${#1}" -le 500 ] || rest='(a long line that is no text)'
        while [ -n "$rest" ]; do
            letter=${rest%"${rest#?}"}
            rest=${rest#?}
            case $letter in
            [!\ -~]) letter='?' ;;
            esac
            plain=$plain$letter
        done
        ;;
    esac
    printf '%s\n' "$plain" >&2
}

# A refusal, after its reasons were printed; the override makes it a warning.
end() { # STATUS
    [ "$list" = no ] || exit "$1"
    skip=${PIKAFORGE_SKIP_CPU_GATE:-}
    if [ -z "$skip" ] && [ "${FORGE_SKIP_CPU_GATE:-}" = 1 ]; then
        skip=1
        say 'cpu-gate: notice: FORGE_SKIP_CPU_GATE is now PIKAFORGE_SKIP_CPU_GATE; the old name still works.'
    fi
    if [ "$skip" = 1 ]; then
        say 'cpu-gate: WARNING: going on all the same, because PIKAFORGE_SKIP_CPU_GATE=1.'
        say '  The program may die of "Illegal instruction" at any moment, or compute wrong results.'
        exit 0
    fi
    say '  hint: PIKAFORGE_SKIP_CPU_GATE=1 in the environment overrides this, at your own risk (in a service: in its'
    say '        environment file, /etc/@PRODUCT@/PORT.env)'
    exit "$1"
}

cannot_tell() { # WHY HINT
    say "cpu-gate: error: cannot tell whether $machine can run $package: $1"
    [ -z "$2" ] || say "  hint: $2"
    end 2
}

wrong_use() { # WHY
    say "cpu-gate: error: $1"
    say '  hint: cpu-gate.sh --help'
    exit 2
}

# The wanted flags, as words in $wanted.
read_features() {
    text=$given_features
    if [ -z "$text" ]; then
        [ -r "$features" ] || cannot_tell "there is no list of features $features" 'unpack the package again'
        text=$(cat -- "$features") || cannot_tell "$features cannot be read" 'unpack the package again'
    fi
    wanted=
    IFS=$nl
    # shellcheck disable=SC2086  # split into lines on purpose
    set -- $text
    IFS=$blank
    for line do
        # shellcheck disable=SC2086  # split into words on purpose
        set -- $line
        case ${1-} in
        '' | '#'*) continue ;;
        *[!a-z0-9_]*) cannot_tell "$features is damaged: '$1' is no flag" 'unpack the package again' ;;
        esac
        case ${2-} in
        '' | '#'*) wanted="$wanted $1" ;;
        *) cannot_tell "$features is damaged: more than one flag in the line of '$1'" 'one flag a line' ;;
        esac
    done
    # Every 64-bit program needs one at least: an empty list is no list.
    [ -n "$wanted" ] || cannot_tell "$features lists no features" 'unpack the package again'
}

# Which words of $1 are not among those of $2, as $lack. Whole words: avx is not found in avx2.
lacking() {
    lack=
    for word in $1; do
        case " $2 " in
        *" $word "*) ;;
        *) lack="$lack $word" ;;
        esac
    done
}

# The words of a name with one blank between them, as $squeezed: Nehalem pads its names.
squeeze() { squeezed="$*"; }

# Take down the processor that ends here. $runs has a line for each run of neighbours that lack the same, as
# FIRST-LAST<tab>MODEL NAME<tab>LACK; $kinds a line for each different set of flags.
close_processor() {
    [ "$open" = yes ] || return 0
    open=no
    if [ -z "$flags" ]; then
        lack='?'
        blind=yes
    elif [ "$flags" != "$last_flags" ]; then
        lacking "$wanted" "$flags"
        last_flags=$flags
        last_lack=$lack
        case $kinds in
        *"$nl$flags$nl"*) ;;
        *) kinds=$kinds$flags$nl ;;
        esac
    else
        lack=$last_lack
    fi
    count=$((count + 1))
    if [ "$name" != "$last_name" ]; then
        # shellcheck disable=SC2086  # split on purpose
        squeeze $name
        last_name=$name
        last_squeezed=$squeezed
    fi
    key=$last_squeezed$tab$lack
    if [ -n "$run_key" ] && [ "$run_key" = "$key" ] && [ "$number" -eq $((run_last + 1)) ]; then
        run_last=$number
    else
        close_run
        [ -z "$lack" ] || { run_key=$key run_first=$number run_last=$number; }
    fi
}

close_run() {
    [ -n "$run_key" ] || return 0
    [ "$run_first" = "$run_last" ] || run_first=$run_first-$run_last
    runs=$runs$run_first$tab$run_key$nl
    run_key=
}

read_cpuinfo() {
    [ "$cpuinfo" = - ] || [ -r "$cpuinfo" ] || cannot_tell "$cpuinfo cannot be read" 'is /proc mounted?'
    # All at once: a shell that reads by lines makes a system call for each byte.
    text=$(cat -- "$cpuinfo" && printf x) || cannot_tell "$cpuinfo cannot be read" ''
    text=${text%x}
    case ${text##*"$nl"} in
    flags*) cannot_tell "$cpuinfo ends within a line of flags" 'copy it again, whole' ;;
    esac
    kinds=$nl runs='' run_key='' count=0 blind=no
    open=no number=0 name='' flags='' last_flags='' last_lack='' last_name='' last_squeezed=''
    IFS=$nl$cr
    # shellcheck disable=SC2086  # split into lines on purpose
    set -- $text
    IFS=$blank
    for line do
        case $line in
        processor[\ :"$tab"]*)
            close_processor
            open=yes name='' flags='' number=${line#*:}
            number=${number#"${number%%[! "$tab"]*}"}
            case $number in
            0) ;;
            '' | 0* | *[!0-9]*) number=$count ;;
            esac
            ;;
        "model name"[\ :"$tab"]*)
            name=${line#*:}
            ;;
        flags[\ :"$tab"]*)
            # Lines of flags alone are taken too, as `grep flags /proc/cpuinfo` prints them.
            [ -z "$flags" ] || close_processor
            [ "$open" = yes ] || { open=yes name='' number=$count; }
            flags=${line#*:}
            ;;
        esac
    done
    close_processor
    close_run
}

# Print $runs, those that lack the same and have the same name in one line.
print_runs() {
    while [ -n "$runs" ]; do
        IFS=$nl
        # shellcheck disable=SC2086  # as above
        set -- $runs
        IFS=$blank
        key=${1#*"$tab"}
        numbers='' others=''
        for run do
            if [ "${run#*"$tab"}" = "$key" ]; then
                numbers=$numbers${numbers:+,}${run%%"$tab"*}
            else
                others=$others$run$nl
            fi
        done
        runs=$others
        name=${key%%"$tab"*}
        lack=${key#*"$tab"}
        cpus="CPU $numbers${name:+ ($name)}"
        case $numbers in
        *[-,]*) plural=yes ;;
        *) plural=no ;;
        esac
        case $lack$plural in
        '?yes') say "  $cpus have no line of flags" ;;
        '?no') say "  $cpus has no line of flags" ;;
        *yes) say "  $cpus lack:$lack" ;;
        *) say "  $cpus lacks:$lack" ;;
        esac
    done
}

# Name the package that makes the most of what all CPUs can do. Lines of the list: TARGET<tab>MODEL,…<tab>FLAG …
advise() {
    text=$given_targets
    if [ -z "$text" ]; then
        [ -r "$targets" ] || return 0
        text=$(cat -- "$targets") || return 0
    fi
    offered=no
    IFS=$nl
    # shellcheck disable=SC2086  # split into lines on purpose
    set -- $text
    IFS=$blank
    for line do
        name=${line%%"$tab"*}
        flags=${line#*"$tab"}
        models=${flags%%"$tab"*}
        case $name in
        '' | '#'* | "$target") continue ;;
        esac
        case $flags in
        "$line" | "$models" | *"$tab") continue ;;
        esac
        flags=${flags#*"$tab"}
        offered=yes
        fits=yes
        IFS=$nl
        for kind in $kinds; do
            IFS=$blank
            lacking "$flags" "$kind"
            [ -z "$lack" ] || fits=no
        done
        IFS=$blank
        [ "$fits" = yes ] || continue
        words=''
        IFS=,
        for model in $models; do
            words="$words${words:+ or }$model"
        done
        IFS=$blank
        say "  take instead: the package for $words ($name, @IMAGE@)"
        return 0
    done
    [ "$offered" = no ] || say '  take instead: none; no package for @IMAGE@ runs on CPUs that have as little'
}

while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --quiet) quiet=yes ;;
    --list) list=yes ;;
    --cpuinfo | --features)
        [ -n "${2:-}" ] || wrong_use "$1 needs a file"
        if [ "$1" = --cpuinfo ]; then
            cpuinfo=$2 machine="the machine of $2"
            [ "$2" != - ] || machine='the machine on standard input'
        else
            features=$2 given_features='' package="what $2 is for" target=''
        fi
        shift
        ;;
    *) wrong_use "unknown argument '$1'" ;;
    esac
    shift
done

read_features
if [ "$list" = yes ]; then
    for word in $wanted; do
        printf '%s\n' "$word"
    done
    exit 0
fi
read_cpuinfo
if [ "$kinds" = "$nl" ]; then
    cannot_tell "$cpuinfo has no line of flags" 'is it an x86-64 machine, and the file not cut short?'
fi
if [ -z "$runs" ]; then
    [ "$quiet" = yes ] || printf 'cpu-gate: %s can run %s (CPUs: %s)\n' "$machine" "$package" "$count"
    exit 0
fi
case $runs in
*"$tab "*)
    say "cpu-gate: error: $machine cannot run $package"
    print_runs
    [ "$blind" = yes ] || advise
    case $kinds in
    *" hypervisor "*) say '  hint: this is a virtual machine; its CPU model may hide what the host can do' ;;
    esac
    end 1
    ;;
esac
say "cpu-gate: error: cannot tell whether $machine can run $package:"
print_runs
say '  hint: is the file cut short?'
end 2
