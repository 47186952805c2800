# shellcheck shell=sh disable=SC2034,SC2154
# JSON for scripts. To be sourced. What goes in is never trusted; what comes out is ASCII, and always valid.
# Print a string of JSON, or null for an empty one. Bytes that are not ASCII become \u00XX each.
json_string() {
    if [ -z "$1" ]; then
        printf null
        return
    fi
    # The end mark keeps newlines at the end.
    printf '%s' "$1" | LC_ALL=C awk '
        BEGIN {
            for (i = 1; i < 256; i++) { code = sprintf("%c", i); shown[code] = i < 32 || i > 126 ? sprintf("\\u%04x", i) : code }
            shown["\""] = "\\\""; shown["\\"] = "\\\\"
            printf "\""
        }
        {
            if (NR > 1) printf "\\n"
            for (i = 1; i <= length($0); i++) { code = substr($0, i, 1); printf "%s", code in shown ? shown[code] : "?" }
        }
        END { printf "\"" }'
}

# Print a number, or null for what is none.
json_number() {
    case $1 in
    '' | *[!0-9]* | ????????????????*) printf null ;;
    *) printf '%s' "$1" | sed 's/^0*\(.\)/\1/' ;;
    esac
}

# Print true or false for yes or anything else.
json_flag() {
    [ "$1" = yes ] && printf true || printf false
}
