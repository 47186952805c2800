# Send what comes in on standard input to a server that speaks RESP, and print the last of COUNT replies.
#
#   bash resp.bash ADDRESS PORT SECONDS COUNT
#
# bash, because it connects by itself. Status: 0 a reply; 1 an error; 2 no connection; 3 none in time, or no RESP.
# A text or a simple string is printed as it is, a number in digits, an array one element a line, nil as nothing.
# The lines of a text end with LF alone. NUL bytes are lost, as in all variables of a shell.
set -u
LC_ALL=C
LIMIT=16777216 # bytes of one text, and elements of one array: what a server says may be wrong
address=$1 port=$2 seconds=$3 count=$4
deadline=$((SECONDS + seconds))

late() { exit 3; }

# A line, without its end, in $line.
get_line() {
    local left=$((deadline - SECONDS))
    ((left > 0)) || late
    IFS= read -r -t "$left" -u 3 line || late
    line=${line%$'\r'}
}

# A text of so many bytes, in $text.
get_text() {
    local size=$1 left=$((deadline - SECONDS))
    ((left > 0 && size <= LIMIT)) || late
    text=
    if ((size > 0)); then
        IFS= read -r -t "$left" -u 3 -N "$size" text || late
    fi
    IFS= read -r -t "$left" -u 3 || late
}

# Print a reply. Arrays may be in arrays, three deep.
reply() {
    local depth=$1 size i
    get_line
    case $line in
    '+'* | ':'*) printf '%s\n' "${line:1}" ;;
    '-'*)
        # It may go to a terminal.
        line=${line:1:1024}
        printf '%s\n' "${line//[^ -~]/?}" >&2
        failed=1
        ;;
    '$-1' | '*-1') [ "$depth" -eq 0 ] || echo ;;
    '$'*)
        [[ ${line:1} =~ ^[0-9]{1,9}$ ]] || late
        get_text $((10#${line:1}))
        printf '%s\n' "${text//$'\r\n'/$'\n'}"
        ;;
    '*'*)
        [[ ${line:1} =~ ^[0-9]{1,8}$ ]] || late
        ((depth < 3)) || late
        size=$((10#${line:1}))
        for ((i = 0; i < size; i++)); do
            reply $((depth + 1))
        done
        ;;
    *) late ;;
    esac
}

[[ $seconds =~ ^[0-9]{1,5}$ && $port =~ ^[0-9]{1,5}$ ]] || exit 2
{ exec 3<>"/dev/tcp/$address/$port"; } 2>/dev/null || exit 2
trap '' PIPE
cat >&3 2>/dev/null || exit 2
failed=0
for ((n = 1; n < count; n++)); do
    reply 0 >/dev/null
    ((failed == 0)) || exit 1
done
reply 0
exit "$failed"
