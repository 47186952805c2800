# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# deploy.sh: the configuration of an instance, made beside and compared before anything is changed.
# shellcheck source=conf-merge.sh
. "$utils/lib/conf-merge.sh"

# Set a key of the draft; the value comes on standard input.
draft_set() { # KEY
    conf_with "$draft" "$1" >"$draft.next" && mv "$draft.next" "$draft"
}

# The same for the rows of a table, with {port} and {data} in their values.
draft_table() { # FILE
    while IFS=$tab read -r key value || [ -n "$key" ]; do
        case $value in
        *'{'*) value=$(printf '%s\n' "$value" | sed -e "s|{port}|$port|g" -e "s|{data}|$data|g") ;;
        esac
        printf '%s\n' "$value" | draft_set "$key"
    done <"$1"
}

# Make the draft: what the configuration is to be. Later ones go before: shipped or --from; recommended settings; those
# of PORT and BASE; --set; --memory, which leaves those alone; passwords. One that is there is kept, but for what is asked for.
compose_conf() {
    changed=
    [ -n "$conf" ] || return 0
    temporary
    draft=$scratch/draft
    umask 077
    if [ -n "$found" ]; then
        cp "$conf" "$draft"
        # The record of what the configuration was made from says whether the shipped one is a new one.
        if [ -f "$etc/$port.shipped" ] && ! cmp -s "$etc/$port.shipped" "$top/$shipped"; then
            conf_merge "$top/$shipped" "$conf" "$etc/$port.shipped" >"$draft"
        fi
    else
        cp "${from:-$top/$shipped}" "$draft"
        [ ! -f "$utils/operate/recommended.tsv" ] || draft_table "$utils/operate/recommended.tsv"
        draft_table "$utils/settings.tsv"
    fi
    lowered=
    [ -z "$found" ] || draft_raised
    printf '%s' "$sets" >"$scratch/sets"
    while IFS= read -r line; do
        printf '%s\n' "${line#*=}" | draft_set "${line%%=*}"
    done <"$scratch/sets"
    [ -n "$lowered" ] && [ -z "$memory" ] || chosen=$(clients_of "$draft")
    [ -z "$memory" ] || draft_memory
    planned=$(clients_of "$draft")
    if [ -n "$password_file" ]; then
        [ -z "$found" ] || [ "$(conf_get "$conf" "$key_admin")" = "$password" ] || ! service_active "$port" ||
            die "instance $port runs, and would be asked with a password that it does not have yet" \
                "instance.sh $port stop, and run this again"
        for key in $key_admin $key_master; do
            printf '%s\n' "$password" | draft_set "$key"
        done
    fi
    umask 022
}

# How many clients a configuration lets in; nothing if there is no setting for that.
clients_of() { # CONF
    [ -z "$key_clients" ] || echo $(($(wanted_files "$1") - reserve_files))
}

# Where a plan or the host's limit has lowered the number of clients, and nobody has changed it since, begin with what was
# chosen before. Sets $lowered, which is empty otherwise, and $chosen.
draft_raised() {
    [ -n "$key_clients" ] && [ -f "$etc/$port.clients" ] || return 0
    read -r chosen planned lowered <"$etc/$port.clients" || :
    if ! is_number "${lowered:-x}" 7 || ! is_number "$chosen" 7 || ! is_number "$planned" 7 ||
        [ "$(clients_of "$conf")" != "$lowered" ] || printf '%s' "$sets" | grep -q "^$key_clients="; then
        lowered=
        return 0
    fi
    if [ -n "$memory" ]; then echo "$chosen"; else echo "$planned"; fi | draft_set "$key_clients"
}

# Print the record of a number that was lowered: what was chosen, what the plan allows, what it is now.
clients_record() {
    now=$(clients_of "$draft")
    [ "$now" = "$chosen" ] || printf '%s %s %s\n' "$chosen" "$planned" "$now"
}

# The plan for an amount of memory: its settings, and its arithmetic as comments between two marks.
draft_memory() {
    [ -f "$utils/operate/memory.tsv" ] || die "--memory: this package cannot plan memory" "leave it out"
    # shellcheck source=memory.sh
    . "$utils/lib/memory.sh"
    bytes=$(memory_bytes "$memory") || wrong "--memory needs a size such as 8G or 512M, not '$memory'"
    # shellcheck disable=SC2046  # the keys of --set
    memory_configured "$bytes" "$draft" $(sed 's/=.*//' "$scratch/sets") >"$draft.next" && mv "$draft.next" "$draft"
}

# Whether this host lets a process have so many open files.
# shellcheck disable=SC3045  # in all three shells
can_open() { (ulimit -n "$1") 2>/dev/null; }

# The most open files that a process can have here.
# shellcheck disable=SC3045
most_files() {
    most=$(ulimit -Hn)
    is_number "$most" 9 || most=$(cat "$proc/sys/fs/nr_open" 2>/dev/null) || most=1048576
    printf '%s\n' "$most"
}

# Lower the number of clients where the host cannot open the files for them: else the server would end at its start.
check_limits() {
    files=
    [ -n "$key_clients" ] && [ -n "$conf" ] || return 0
    files=$(wanted_files "$draft")
    if can_open "$files"; then
        clients=$((files - reserve_files))
        [ "${lowered:-$clients}" -ge "$clients" ] ||
            say "deploy: $key_clients is raised again from $lowered to $clients: ${memory:+the plan of memory and }this host's limit of open files allow that"
        return 0
    fi
    most=$(most_files)
    less=$((most - reserve_files))
    clients=$((files - reserve_files))
    [ "$less" -gt 0 ] || die "this host's hard limit of open files is $most, and the server needs $reserve_files and more" \
        "raise it: ulimit -Hn, LimitNOFILE of systemd, --ulimit of a container"
    [ "$less" = "$lowered" ] ||
        warn "$key_clients is lowered from $clients to $less: this host's hard limit of open files is $most"
    printf '%s\n' "$less" | draft_set "$key_clients"
    files=$most
}

# Say how the configuration changes.
show_conf() {
    [ -n "$conf" ] || return 0
    if [ -z "$found" ]; then
        say "would write $conf, which differs so from ${from:-the one that is shipped}:"
        conf_diff "${from:-$top/$shipped}" "$draft"
    elif cmp -s "$draft" "$conf"; then
        say "would keep $conf as it is"
    else
        say "would change $conf so, and keep the old one beside it:"
        conf_diff "$conf" "$draft"
    fi
}

# Write the draft, unless it is what is there. The old one is kept under a name with date and time.
write_conf() {
    [ -n "$conf" ] || return 0
    if [ -z "$found" ]; then
        replaced "$conf" <"$draft"
    elif ! cmp -s "$draft" "$conf"; then
        kept=$(conf_keep "$conf") || die "$conf cannot be copied beside itself"
        replaced "$conf" <"$draft"
        changed=$kept
        say "deploy: $conf is changed so; the old one is $kept:"
        conf_diff "$kept" "$draft"
    fi
}
