# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# Bring an instance's configuration to that of a new version, and show what changes.

# Print a new configuration with the settings of an old one: all lines of a key of the old one stand where the new one
# has that key first; keys that the new one lacks follow at its end. Keys that only the new one has stay as they are, but
# for those that the old one was made from, too: somebody has taken them out, or the server itself, because they had its
# default. Comments are the new one's, but for the block of the memory plan.
conf_merge() { # NEW OLD SHIPPED: what the old one was made from
    SEPARATOR=$separator awk "$conf_keys"'
        file == "shipped" { gone[key_of($0)] = 1; next }
        file == "old" {
            if ($0 == "# memory plan: begin") inside = 1
            if (inside && $0 ~ /^#/) block = block $0 "\n"
            if ($0 == "# memory plan: end") inside = 0
            key = key_of($0)
            if (key == "") next
            if (!(key in lines)) order[++count] = key
            lines[key] = lines[key] $0 "\n"
            next
        }
        {
            key = key_of($0)
            if (key == "" || !(key in lines) && !(key in gone)) { print; next }
            if (key in lines && !(key in printed)) printf "%s", lines[key]
            printed[key] = 1
        }
        END {
            for (i = 1; i <= count; i++) if (!(order[i] in printed)) printf "%s", lines[order[i]]
            printf "%s", block
        }' file=shipped "$3" file=old "$2" file=new "$1"
}

# Print a configuration without its passwords, those of comments too.
without_secrets() { # FILE
    KEYS="$key_admin $key_user $key_master" SEPARATOR=$separator awk "$conf_keys"'
        BEGIN { n = split(ENVIRON["KEYS"], list, " "); for (i = 1; i <= n; i++) secret[list[i]] = 1 }
        {
            text = $0
            sub(/^[ \t]*#?/, "", text)
            key = key_of(text)
            print key in secret ? key ENVIRON["SEPARATOR"] "(not shown)" : $0
        }' "$1"
}

# Show what differs, without passwords. Lines that only say where are left out.
conf_diff() { # OLD NEW
    temporary
    without_secrets "$1" >"$scratch/diff.old"
    without_secrets "$2" >"$scratch/diff.new"
    if command -v diff >/dev/null 2>&1; then
        # Status 1 says that they differ.
        diff -U 0 "$scratch/diff.old" "$scratch/diff.new" | sed -n -e '/^---/d' -e '/^+++/d' -e '/^[-+]/p' | printable |
            sed 's/^/  /'
    else
        say "  (there is no diff on this host to show it)"
    fi
    rm -f "$scratch/diff.old" "$scratch/diff.new"
}

# Keep a configuration under a name with date and time, as the user whose folder it is in. Prints the name.
conf_keep() { # FILE
    kept=$1.$(date +%Y%m%d-%H%M%S)
    [ ! -e "$kept" ] || kept=$kept-$$
    # shellcheck disable=SC2016  # the inner shell's
    as_user sh -c 'umask 027; cp "$1" "$2"' sh "$1" "$kept" || return 1
    printf '%s\n' "$kept"
}
