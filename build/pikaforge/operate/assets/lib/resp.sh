# shellcheck shell=sh disable=SC2034,SC2154
# Ask an instance over its protocol. Sourced after common.sh.
#
# A password is read from the instance's configuration and goes through a pipe: not over a command line, nor by the
# environment. Replies are data: who shows one uses `printable`.
ask_seconds=${ask_seconds:-10}

# One request of the protocol: its words with their lengths in bytes.
request() { # WORD…
    printf '*%d\r\n' $#
    for word; do
        printf '$%d\r\n%s\r\n' ${#word} "$word"
    done
}

# Where an instance listens: the first address of its configuration, unless that stands for all.
address_of() { # CONF
    address=
    [ -z "$key_address" ] || address=$(conf_get "$1" "$key_address")
    address=${address%%[ ,]*}
    address=${address#-}
    case $address in
    '' | '*' | 0.0.0.0 | :: | '::*' | *[!0-9A-Fa-f.:]*) address=127.0.0.1 ;;
    esac
    printf '%s\n' "$address"
}

# Print the reply to a request. Status: 0 there is one; 1 it is an error, whose printable ASCII is on standard error; 2 no
# connection; 3 none within $ask_seconds.
ask() ( # PORT WORD…
    load_instance "$1"
    shift
    address=$(address_of "$conf")
    password=
    [ -z "$key_admin" ] || password=$(conf_get "$conf" "$key_admin")
    count=1
    [ -z "$password" ] || count=2
    {
        [ -z "$password" ] || request AUTH "$password"
        request "$@"
    } | transport "$address" "$port" "$count"
)

# Send what comes in, and print the last of so many replies.
transport() { # ADDRESS PORT COUNT
    if command -v bash >/dev/null 2>&1; then
        bash "$utils/lib/resp.bash" "$1" "$2" "$ask_seconds" "$3"
    elif command -v nc >/dev/null 2>&1; then
        through_nc "$@"
    else
        printf '%s: error: neither bash nor nc is here to ask the server\n' "$tool" >&2
        return 2
    fi
}

# The same by nc, which ends when the server closes or nothing came for a while. What a server says is cut at 16 MB.
through_nc() { # ADDRESS PORT COUNT
    { cat; sleep 1; } | nc -w "$ask_seconds" "$1" "$2" 2>/dev/null | head -c 16777216 | tr '\000' '?' |
        COUNT=$3 awk '
            # Print a reply that begins in this line; the lines of a text follow up to its length.
            function reply(line, kind, rest, size, text, i, n) {
                sub(/\r$/, "", line)
                kind = substr(line, 1, 1); rest = substr(line, 2)
                if (kind == "+" || kind == ":") return rest
                if (kind == "-") { failed = 1; return rest }
                if (kind == "$") {
                    size = rest + 0
                    if (size < 0) return ""
                    text = ""
                    while (length(text) < size && (getline line) > 0) text = text line "\n"
                    if (size == 0) getline line
                    return substr(text, 1, size)
                }
                if (kind == "*") {
                    text = ""; n = rest + 0
                    for (i = 1; i <= n && i < 100000; i++) { if ((getline line) <= 0) break; text = text (i > 1 ? "\n" : "") reply(line) }
                    return text
                }
                exit status = 3
            }
            { seen++; text = reply($0); if (failed) exit; if (seen == ENVIRON["COUNT"]) exit }
            END {
                if (!seen) exit 2
                if (failed) { gsub(/[^ -~]/, "?", text); print text >"/dev/stderr"; exit 1 }
                if (seen < ENVIRON["COUNT"] || status) exit 3
                gsub(/\r\n/, "\n", text)
                if (text != "") print text
            }'
}

# Whether an instance answers.
healthy() { # PORT
    [ "$(ask_seconds=${ask_seconds:-3} && ask "$1" PING 2>/dev/null)" = PONG ]
}

# Wait until an instance answers. Ends early if its process has ended or was replaced; then says so.
wait_healthy() { # PORT SECONDS
    until=$(($(date +%s) + $2))
    first=
    while :; do
        ! healthy "$1" || return 0
        process=$(service_pid "$1")
        if [ -z "$process" ] || [ "${first:-$process}" != "$process" ]; then
            # It may have been asked while it was being started.
            [ -n "$first" ] || [ "${looks:=0}" -lt 3 ] || [ -n "$process" ] || first=none
            looks=$((${looks:-0} + 1))
            if [ -n "$first" ]; then
                printf '%s: the instance has ended; its last words:\n' "$tool" >&2
                last_words "$1"
                return 1
            fi
        fi
        first=${first:-$process}
        if [ "$(date +%s)" -ge "$until" ]; then
            printf '%s: the instance does not answer within %s seconds; its last words:\n' "$tool" "$2" >&2
            last_words "$1"
            return 1
        fi
        sleep 1
    done
}
