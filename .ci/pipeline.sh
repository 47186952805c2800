#!/usr/bin/env bash
# One job of a pipeline: `pipeline.sh plan github|gitlab`, `build`, `report` or `publish`.
#
# action.yml, the reusable workflow and the example for GitLab run this in a folder with a matrix.yaml. What they want
# reaches it as environment variables and never as text of a script. All are optional:
#   PIKAFORGE_SELECT     selectors with blanks between them; empty: all of the matrix
#   PIKAFORGE_OS, PIKAFORGE_ALLOCATOR, PIKAFORGE_MATRIX, PIKAFORGE_SOURCE, PIKAFORGE_FORMATS   values of such options
#   PIKAFORGE_LOCKED     true: refuse any input that is not pinned
#   PIKAFORGE_CHUNKS     plan: jobs at most
#   PIKAFORGE_CHUNK      build: K/N, the part that this job builds
#   PIKAFORGE_OUT, PIKAFORGE_DIST   folders of results and packages; default: out and dist
#   PIKAFORGE_TO         publish: the destination
#   PIKAFORGE_YES        publish: true makes the changes; anything else only shows them
#   PIKAFORGE_PUBLISH_USER, PIKAFORGE_PUBLISH_PASSWORD, PIKAFORGE_PUBLISH_TOKEN   publish: credentials of that destination
set -euo pipefail
LC_ALL=C

tool=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export PIKAFORGE_CWD=$PWD # what relative paths mean
words=()

fail() { # no value is shown: it might be a command of the service that reads this
    printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
    exit 2
}

option() { # NAME VARIABLE [DEFAULT]: adds --NAME=VALUE if there is a value
    local value=${!2:-${3:-}}
    [[ -z $value ]] || words+=("--$1=$value")
}

is_true() { # VARIABLE
    case ${!1:-} in
        true) return 0 ;;
        '' | false) return 1 ;;
        *) fail "$1 is neither true nor false" "leave it out, or say true" ;;
    esac
}

flag() { # NAME VARIABLE: adds --NAME if the variable is true
    if is_true "$2"; then words+=("--$1"); fi
}

folders() {
    option matrix PIKAFORGE_MATRIX matrix.yaml
    option out PIKAFORGE_OUT out
    option dist PIKAFORGE_DIST dist
}

selectors() { # adds the selectors, and what narrows them
    local chosen=() word
    read -r -d '' -a chosen <<<"${PIKAFORGE_SELECT:-}" || true # splits at blanks and line ends, and expands nothing
    for word in "${chosen[@]}"; do
        [[ $word != -* ]] || fail "PIKAFORGE_SELECT has a word that begins with -" "it names cells, and no options"
    done
    if ((${#chosen[@]})); then
        option os PIKAFORGE_OS
        option allocator PIKAFORGE_ALLOCATOR
        words+=("${chosen[@]}")
    else
        option os PIKAFORGE_OS all
        option allocator PIKAFORGE_ALLOCATOR all
        words+=(all)
    fi
}

credentials() { # gives the credentials of the one destination the names that the tool reads
    local to=${PIKAFORGE_TO:-} kind value name
    for kind in USER PASSWORD TOKEN; do
        value=PIKAFORGE_PUBLISH_$kind
        [[ -n ${!value:-} ]] || continue
        [[ $to =~ ^[A-Za-z0-9_.-]+$ ]] ||
            fail "$value needs PIKAFORGE_TO to be one destination" "several have variables of their own: PIKAFORGE_NAME_$kind"
        name=${to^^}
        export "PIKAFORGE_${name//[^A-Z0-9]/_}_$kind=${!value}"
    done
}

prepare() {
    bash "$tool/setup.sh" >&2
}

session() { # NAME
    "$tool/.venv/bin/nox" -f "$tool/noxfile.py" -s "$1" -- "${words[@]}"
}

case ${1:-} in
    plan)
        case ${2:-} in github | gitlab) words+=("--format=$2") ;; *) fail "plan for which service?" "github or gitlab" ;; esac
        option matrix PIKAFORGE_MATRIX matrix.yaml
        option chunks PIKAFORGE_CHUNKS
        selectors
        prepare
        session matrix
        ;;
    build)
        folders
        option source PIKAFORGE_SOURCE
        option formats PIKAFORGE_FORMATS
        option chunk PIKAFORGE_CHUNK
        flag locked PIKAFORGE_LOCKED
        selectors
        exec bash "$tool/setup.sh" "${words[@]}"
        ;;
    report)
        if ! grep -q '^def report(' "$tool/noxfile.py"; then
            echo "note: this version of the tool makes no page of several reports"
            exit 0
        fi
        folders
        words+=("${PIKAFORGE_DIST:-dist}")
        prepare
        session report
        ;;
    publish)
        [[ -n ${PIKAFORGE_TO:-} ]] || fail "PIKAFORGE_TO is empty" "name a destination of matrix.yaml"
        folders
        option to PIKAFORGE_TO
        if is_true PIKAFORGE_YES; then
            words+=(--yes)
        else
            unset CI # with it, a named destination is consent enough
        fi
        selectors
        credentials
        prepare
        session publish
        ;;
    *) fail "there is no such job" "plan, build, report or publish" ;;
esac
