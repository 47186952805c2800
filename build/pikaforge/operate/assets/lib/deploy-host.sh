# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# deploy.sh: what changes the host, and how it is undone.

made=''    # the data folder, if it is new
parents='' # folders above it that are new
user_made='' written='' enabled='' started='' done='' begun=''
mended='' # whether owners or modes were not right

# Note what is there: from here on, a failure is undone.
begin() {
    begun=yes
    temporary
    unit=$units/$product@.service
    dropin=$units/$product@$port.service.d
    for file in "$unit" "$dropin/10-instance.conf" "$env" "$etc/$port.shipped" "$tmpfiles/$product-$port.conf" \
        "$init/$product" "$etc/$port.clients"; do
        [ ! -f "$file" ] || cp -p "$file" "$scratch/saved.${file##*/}"
    done
    [ -d "$etc" ] || etc_made=yes
}

# Undo a deployment that did not succeed. What was there before is as it was.
undo() { # STATUS
    if [ -z "$begun" ]; then
        [ "$1" -eq 0 ] || [ "$1" -gt 128 ] || [ -n "$said" ] ||
            printf '%s: error: not finished (see above); nothing was changed\n' "$tool" >&2
        return
    fi
    [ -z "$done" ] || return 0
    [ -z "$started" ] || service_stop "$port" >/dev/null 2>&1
    [ -z "$enabled$started" ] || [ -f "$scratch/saved.$port.env" ] || ! by_systemd ||
        systemctl --quiet disable --now "$product@$port.service" 2>/dev/null
    rm -f "$env.new.$port" "$unit.new.$port" "$dropin/10-instance.conf.new.$port" "$etc/$port.shipped.new.$port" \
        "$init/$product.new.$port"
    for file in $written; do
        if [ -f "$scratch/saved.${file##*/}" ]; then
            cp -p "$scratch/saved.${file##*/}" "$file"
        elif [ "$file" = "$init/$product" ]; then
            boot_off
        else
            rm -f "$file"
        fi
    done
    rmdir "$dropin" 2>/dev/null
    [ -z "${etc_made:-}" ] || rmdir "$etc" 2>/dev/null
    if [ -n "$written" ] && by_systemd; then
        systemctl daemon-reload
        systemctl reset-failed "$product@$port.service" 2>/dev/null
    fi
    if [ -n "$made" ]; then
        rm -rf "$data"
        for folder in $parents; do
            rmdir "$folder" 2>/dev/null
        done
    elif [ -n "${conf:-}" ]; then
        if [ -z "$found" ]; then
            rm -f "$conf" "$conf.new"
        elif [ -n "$changed" ]; then
            replaced "$conf" <"$changed"
        fi
    fi
    [ -z "${new_password:-}" ] || [ -z "${password_written:-}" ] || rm -f "$password_file"
    [ -z "$user_made" ] || userdel "$user" 2>/dev/null
    printf '%s: error: not finished (see above); what it made is removed again\n' "$tool" >&2
    hint "mend that, and run it again as before"
}

make_user() {
    [ -n "$user_missing" ] || return 0
    shell=/sbin/nologin
    [ -x "$shell" ] || shell=/usr/sbin/nologin
    # useradd refuses to make a group that is there.
    group=--user-group
    ! getent group "$user" >/dev/null 2>&1 || group=--gid=$user
    user_made=yes
    useradd --system "$group" --home-dir "$base" --no-create-home --shell "$shell" "$user"
}

# The program is root's, and the user can read and run it whatever the umask was when it was unpacked. Nothing is done
# where all is well: the folder may be read-only.
own_tree() {
    bad=$(find "$top" ! -type l '(' ! -uid 0 -o ! -gid 0 -o -perm -020 -o -perm -002 -o ! -perm -044 -o \
        -perm -100 ! -perm -011 ')' -print 2>&1 | head -n 1)
    [ -n "$bad" ] || return 0
    mended=yes
    chown -R 0:0 "$top"
    chmod -R go-w,go+rX "$top"
}

# The folders of the instance: the user's, because it writes into each, and into that of the conf for CONFIG REWRITE.
make_folders() {
    owned=$(owners)
    if [ ! -d "$data" ]; then
        at=${data%/*}
        while [ ! -d "${at:-/}" ]; do
            parents="$parents $at"
            at=${at%/*}
        done
        made=yes
        mkdir -p "${data%/*}"
        (umask 027 && mkdir "$data")
    fi
    if [ "$(stat -c %u "$data")" -eq "$(id -u "$user")" ]; then
        chown -h "$user:" "$data"
    else
        # It is new, or came from elsewhere. A running server removes files.
        chown -R "$user:" "$data"
    fi
    # The folder of backups is root's; `instance.sh PORT backup` makes it.
    folders="conf log db dump dbsync"
    for folder in $folders; do
        [ ! -d "$data/$folder" ] || chown -h "$user:" "$data/$folder"
    done
    # shellcheck disable=SC2016,SC2086  # the inner shell's; words
    as_user sh -c 'umask 027
        cd "$1" && shift && mkdir -p "$@"' sh "$data" $folders
    [ ! -f "$conf" ] || chown -h "$user:" "$conf"
    [ "$owned" = "$(owners)" ] || mended=yes
}

# Print the owners of the folders, and of the configuration.
owners() { stat -c '%u %g %n' "$data" "$data"/* "$conf" 2>/dev/null || :; }

# Replace a file of root's by what comes in; note that it is ours.
put() { # FILE
    cat >"$1.new.$port"
    # What is there and the same is left alone.
    if cmp -s "$1" "$1.new.$port"; then
        rm -f "$1.new.$port"
        return
    fi
    written="$written $1"
    mv "$1.new.$port" "$1"
}

# What ties the instance to the host: its environment file, and the unit.
write_host() {
    if [ -n "${new_password:-}" ]; then
        password_written=yes
        (umask 077 && set -C && printf '%s\n' "$password" >"$password_file")
        say "deploy: the password of instance $port is in $password_file"
    fi
    by_systemd || [ -n "$protocol" ] || return 0
    mkdir -p "$etc"
    environment >"$scratch/env"
    put "$env" <"$scratch/env"
    [ -z "$protocol" ] || [ -z "$conf" ] || put "$etc/$port.shipped" <"$top/$shipped"
    [ -z "$key_clients" ] || write_clients
    if by_systemd; then write_unit; else write_boot; fi
    ! by_systemd || [ ! -f "$utils/operate/logs.tsv" ] || write_rules
}

# The record of a number of clients that was lowered, for the next time.
write_clients() {
    clients_record >"$scratch/clients"
    if [ -s "$scratch/clients" ]; then
        put "$etc/$port.clients" <"$scratch/clients"
    elif [ -f "$etc/$port.clients" ]; then
        written="$written $etc/$port.clients"
        rm -f "$etc/$port.clients"
    fi
}

# The init script that starts the instances at boot; one that is there and of something else is left alone.
write_boot() {
    # shellcheck source=boot.sh
    . "$utils/lib/boot.sh"
    if [ -n "$(boot_tool)" ] && ! boot_foreign; then
        put "$boot" <"$utils/boot.sh"
        chmod 755 "$boot"
        boot_on || die "$boot cannot be switched on" "what $(boot_tool) says is above"
    elif [ -z "$found" ]; then
        warn "nothing starts instance $port at the boot of this host"
        hint "let its init call: $top/utils/run.sh $port --daemon"
    fi
}

# The rules by which systemd-tmpfiles removes old log files.
write_rules() {
    # shellcheck source=info.sh
    . "$utils/lib/info.sh"
    # shellcheck source=logs.sh
    . "$utils/lib/logs.sh"
    logs_rules >"$scratch/rules"
    [ -s "$scratch/rules" ] || return 0
    mkdir -p "$tmpfiles"
    put "$tmpfiles/$product-$port.conf" <"$scratch/rules"
}

# Print the environment file: where the instance is, and the lines of the operator.
environment() {
    for name in $variables; do
        case $name in
        CONF) printf 'CONF=%s\n' "$conf" ;;
        DATA) printf 'DATA=%s\n' "$data" ;;
        TREE) printf 'TREE=%s\n' "$top" ;;
        esac
    done
    lines=
    if [ -f "$env" ]; then
        # Status 1 says that there are none; 2, that they cannot be read.
        lines=$(grep -v -e '^CONF=' -e '^DATA=' -e '^TREE=' "$env") || [ $? -eq 1 ]
        [ -z "$lines" ] || printf '%s\n' "$lines"
    fi
    # The variable's old name works as well (cpu-gate.sh).
    skip=${PIKAFORGE_SKIP_CPU_GATE:-${FORGE_SKIP_CPU_GATE:-}}
    if [ "$skip" = 1 ] && ! printf '%s\n' "$lines" | grep -qx -e 'PIKAFORGE_SKIP_CPU_GATE=1' -e 'FORGE_SKIP_CPU_GATE=1'; then
        # Else the service would refuse what was overridden here.
        echo 'PIKAFORGE_SKIP_CPU_GATE=1'
        warn "the service overrides the CPU gate too, by $env"
    fi
}

# Return whether a package has brought the unit of this tree. Links in the unit's path are followed, as systemd does. That
# of an operated server starts the program of any tree: it reads TREE of the environment file.
packaged() {
    theirs=
    for folder in $packaged_units; do
        packed=$folder/$product@.service
        [ -f "$packed" ] || continue
        theirs=$packed
        [ -z "$protocol" ] || ! grep -q '^ExecStart=/[^ ]*/utils/run.sh %i$' "$packed" || return 0
        program=$(sed -n 's/^ExecStart=\(\/[^ ]*\).*/\1/p' "$packed")
        program=$(real "${program%/*}") || continue
        case $program/ in
        "$top"/*) return 0 ;;
        esac
    done
    return 1
}

# Where a package has brought the unit of this tree, one in /etc would hide it, and its later versions, too.
write_unit() {
    if ! packaged; then
        sed "s|@TOP@|$top|g" "$top/systemd/$product@.service" >"$scratch/unit"
        put "$unit" <"$scratch/unit"
        if [ -n "$theirs" ]; then
            warn "$unit hides $theirs of a package: all instances run $top when they start again"
            hint "rm $unit to go back to the package; an instance of it is set up by its own deploy.sh"
        fi
    elif [ -f "$unit" ]; then
        warn "$unit hides the unit of the package"
        hint "rm $unit, unless it is meant to"
    fi
    [ -n "$protocol" ] || return 0
    mkdir -p "$dropin"
    unit_of_instance >"$scratch/instance.conf"
    put "$dropin/10-instance.conf" <"$scratch/instance.conf"
}

# Print what the unit has for this instance alone: the one place that it may write to, and its limit of open files.
unit_of_instance() {
    echo '# Written by deploy.sh; files of yours go beside it, such as 20-own.conf.'
    echo '[Service]'
    # systemd 219 does not know this value, and keeps `full` of the unit. The next one has its name there.
    echo 'ProtectSystem=strict'
    echo "ReadWriteDirectories=$data -$runtime/$product"
    case $where/ in
    /home/* | /root/*) ;;
    *) echo 'ProtectHome=yes' ;;
    esac
    [ -z "$files" ] || echo "LimitNOFILE=$files"
}
