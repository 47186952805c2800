# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# Let an instance run another tree, and go back. Sourced after trees.sh and conf-merge.sh.
#
# What an instance was before is in a folder of root's: PORT.next while an upgrade is under way, PORT.before after it.
# A run that was killed has left PORT.next: the next one goes back first. Files that are written beside have the port in
# their names, so that the next run writes over those of a killed one.

reserve_mib=32 # kept free for the way back, if the new program fills the disk

switch_paths() {
    next=$etc/$port.next
    before=$etc/$port.before
    unit=$units/$product@.service
    dropin=$units/$product@$port.service.d/10-instance.conf
    reserve=$data/.reserve
}

# Print a file of the service user, who could put a link to another one there.
own_file() { as_user cat "$1"; }

# What a killed run was making, or removing. The lock says that none is under way.
switch_sweep() {
    rm -rf "$next.new"
    as_user rm -f "$conf.new"
}

# Remove a record at once: one that is half removed would be taken for one.
record_remove() { # RECORD
    rm -rf "$next.new"
    mv "$1" "$next.new"
    rm -rf "$next.new"
}

# Note what the instance is.
switch_record() { # NEW
    rm -rf "$next.new"
    (
        umask 077
        mkdir "$next.new"
        printf '%s\n' "$tree" >"$next.new/tree"
        printf '%s\n' "$1" >"$next.new/to"
        [ "$fresh" != "$1" ] || printf '%s\n' "$1" >"$next.new/fresh"
        for file in "$unit" "$dropin" "$etc/$port.shipped" "$etc/$port.clients"; do
            [ ! -f "$file" ] || cp -p "$file" "$next.new/${file##*/}"
        done
        own_file "$conf" >"$next.new/conf"
    ) && mv "$next.new" "$next" || die "what instance $port is now cannot be noted in $etc"
}

reserve_take() {
    # shellcheck disable=SC2016  # the inner shell's
    as_user sh -c 'umask 077; rm -f "$1"; exec dd if=/dev/zero of="$1" bs=1048576 count="$2" 2>/dev/null' sh \
        "$reserve" "$reserve_mib" || {
        rm -f "$reserve"
        die "$data has no room: $reserve_mib MiB are kept for the way back" "make room"
    }
}

# Let the new tree set the instance up as its own deploy.sh does: configuration merged, unit, environment. Not started.
switch_to() { # NEW
    deploy_of "$1" || die "the new program cannot be set up (see above)"
    shown
    own_file "$conf" >"$next/conf.after"
}

deploy_of() { # NEW WORD…
    new_tree=$1
    shift
    skip=$(env_get "$env" PIKAFORGE_SKIP_CPU_GATE)
    # In the background, so that its process is known: a run that takes over waits for its end.
    PIKAFORGE_SKIP_CPU_GATE=$skip "$new_tree/utils/deploy.sh" "$port" "${data%/*}" --no-start "$@" >"$scratch/deployed" 2>&1 &
    child=$!
    [ ! -d "$next" ] || printf '%s %s\n' "$child" "$(began "$child")" >"$next/child"
    status=0
    wait "$child" || status=$?
    [ "$status" -eq 0 ] || shown >&2
    return "$status"
}

# Show what deploy.sh has said of the configuration.
shown() {
    grep -v -e ' is ready to be started with ' -e ' is set up: nothing to do' -e '^would not start' -e '^would set up' \
        "$scratch/deployed" | printable || :
}

# Wait for what a killed run has started.
child_ended() { # RECORD
    read -r child start 2>/dev/null <"$1/child" || return 0
    tries=0
    while is_number "$child" && [ -n "$start" ] && [ "$(began "$child")" = "$start" ] && [ "$tries" -lt 60 ]; do
        sleep 1
        tries=$((tries + 1))
    done
}

# Print a configuration without the keys that another tree's file has set and this instance did not have before.
conf_less() { # CONF SHIPPED BEFORE
    SEPARATOR=$separator awk "$conf_keys"'
        FNR == 1 { file++ }
        { key = key_of($0) }
        file == 1 { had[key] = 1; next }
        file == 2 { came[key] = 1; next }
        key == "" || !(key in came) || key in had' "$3" "$2" "$1"
}

# Put back what the instance was. Its data is left alone. A configuration that was changed since keeps those changes.
switch_back() { # RECORD
    child_ended "$1"
    rm -f "$reserve"
    tree_put "$port" "$(cat "$1/tree")"
    for file in "$unit" "$dropin" "$etc/$port.shipped" "$etc/$port.clients"; do
        saved=$1/${file##*/}
        [ -f "$saved" ] && ! cmp -s "$saved" "$file" || continue
        program=$(sed -n 's/^ExecStart=\(\/[^ ]*\).*/\1/p' "$saved")
        [ -z "$program" ] || [ -f "$program" ] || continue
        cp -p "$saved" "$file.new.$port" && mv "$file.new.$port" "$file" || warn "$file could not be put back"
    done
    ! by_systemd || systemctl daemon-reload
    own_file "$conf" >"$scratch/now" || :
    if [ ! -f "$1/conf.after" ] || cmp -s "$scratch/now" "$1/conf.after"; then
        cp "$1/conf" "$scratch/back"
    else
        conf_less "$scratch/now" "$(cat "$1/to")/$shipped" "$1/conf" >"$scratch/back" || cp "$scratch/now" "$scratch/back"
        cmp -s "$scratch/now" "$scratch/back" || conf_keep "$conf" >/dev/null || :
    fi
    cmp -s "$scratch/now" "$scratch/back" || replaced "$conf" <"$scratch/back" || warn "$conf could not be put back"
}

# Restart, and wait until the program of a tree answers, and goes on to do so for a while.
switch_start() { # TREE SECONDS SETTLE
    service_restart "$port" || {
        last_words "$port"
        return 1
    }
    wait_healthy "$port" "$2" || return 1
    process=$(service_pid "$port")
    until=$(($(date +%s) + $3))
    while [ "$(date +%s)" -lt "$until" ]; do
        sleep 1
        if [ "$(service_pid "$port")" != "$process" ] || ! healthy "$port"; then
            printf '%s: it answered, and does no more; its last words:\n' "$tool" >&2
            last_words "$port"
            return 1
        fi
    done
    runs_tree "$1" && return 0
    printf '%s: what answers is not of %s\n' "$tool" "$1" >&2
    return 1
}

# Whether the process of the instance is a program of a tree, and that file is still there.
runs_tree() { # TREE [PORT]
    process=$(service_pid "${2:-$port}")
    [ -n "$process" ] || return 1
    # As its user: in containers root must not look at the processes of others.
    case $(as_user readlink "$proc/$process/exe" 2>/dev/null) in
    *' (deleted)') return 1 ;;
    "$1"/*) return 0 ;;
    esac
    tr '\000' '\n' <"$proc/$process/cmdline" 2>/dev/null | grep -q "^$1/"
}

# Whether an instance runs a tree, is set to it, or may go back to it.
tree_used() ( # TREE
    [ "$(tree_real "$main")" != "$1" ] || exit 0
    ! grep -Fqsx -e "$1" "$etc"/*.next/tree "$etc"/*.next/to "$etc"/*.before/tree "$etc"/*.before/to || exit 0
    for each in $(instances); do
        its=$(env_get "$etc/$each.env" TREE)
        [ "$(tree_real "${its:-$main}")" != "$1" ] || exit 0
        ! runs_tree "$1" "$each" || exit 0
    done
    exit 1
)

# After a failure: remove the tree that this command has unpacked.
tree_forget() { # STATUS
    if [ "$1" -eq 0 ] || [ -z "$fresh" ] || [ ! -d "$fresh" ] || tree_used "$fresh"; then return 0; fi
    rm -rf "$fresh"
    printf '%s: %s, which was unpacked for this, is removed again\n' "$tool" "$fresh" >&2
}

# Ports of the command line, for verbs that take several: PORT first, then --port, or all of this host.
ports_add() { # PORT
    is_port "$1" || misused "--port takes a number from 1 to $highest, not '$1'"
    [ -f "$etc/$1.env" ] || die "there is no instance $1 of $product on this host" "instance.sh list"
    case " $ports " in
    *" $1 "*) ;;
    *) ports="$ports $1" ;;
    esac
}

# Run this verb for each port, one after the other; stop at the first that fails.
each_port() { # WORD…
    left=$ports
    for one in $ports; do
        left=${left#* }
        [ "$left" != "$one" ] || left=
        "$utils/instance.sh" "$one" "$verb" "$@" || {
            status=$?
            said=yes
            printf '%s: error: instance %s is not done%s\n' "$tool" "$one" "${left:+; left as they were: $left}" >&2
            hint "mend that, and run it again as before"
            exit "$status"
        }
    done
}

# A number of seconds of the command line.
seconds_of() { # OPTION VALUE
    is_number "$2" 6 || misused "$1 takes a number of seconds, not '$2'"
}
