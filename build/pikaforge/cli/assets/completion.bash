# shellcheck shell=bash disable=SC2154 # the script that this becomes a part of sets the paths
# Print the names of some kinds that begin with a word. The list is made anew if matrix.yaml is younger.
_pikaforge_list() { # word kind...
  local word=$1 kind name
  shift
  if [[ ! -e $_pikaforge_names_path || $_pikaforge_matrix_path -nt $_pikaforge_names_path ]]; then
    PYTHONPATH=$_pikaforge_source_path "$_pikaforge_python_path" -m pikaforge completion names \
      --matrix "$_pikaforge_matrix_path" --out "${_pikaforge_names_path%/*}" >/dev/null 2>&1 </dev/null
  fi
  [[ -r $_pikaforge_names_path ]] || return 0
  while read -r kind name; do
    [[ " $* " == *" $kind "* && $name == "$word"* && $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || continue
    printf '%s\n' "$name"
  done <"$_pikaforge_names_path"
}

_pikaforge_model() { _pikaforge_list "$1" model; }
_pikaforge_image() { _pikaforge_list "$1" image; }
_pikaforge_allocator() { _pikaforge_list "$1" allocator; }
_pikaforge_destination() { _pikaforge_list "$1" destination; }
_pikaforge_target() { _pikaforge_list "$1" target; }
_pikaforge_cell() { _pikaforge_list "$1" cell; }
_pikaforge_files() { compgen -f -- "$1"; }
_pikaforge_folders() { compgen -d -- "$1"; }

# Models first: there are hundreds of cells, so they come with the first dash.
_pikaforge_selector() {
  if [[ $1 == *-* ]]; then
    _pikaforge_list "$1" model cell
  else
    _pikaforge_list "$1" model
    [[ all != "$1"* ]] || printf 'all\n'
  fi
}

# nox -s VERB -- ARGUMENTS is completed as pikaforge VERB ARGUMENTS is.
_pikaforge_nox() {
  local index verb='' end=0
  for ((index = 1; index < COMP_CWORD; index++)); do
    case ${COMP_WORDS[index]} in
      -s | --session | --sessions | -e) verb=${COMP_WORDS[index + 1]} ;;
      --) end=$index && break ;;
    esac
  done
  COMPREPLY=()
  if ((end == 0)); then
    case ${COMP_WORDS[COMP_CWORD - 1]} in
      -s | --session | --sessions | -e)
        while IFS= read -r verb; do COMPREPLY+=("$verb"); done < <(
          compgen -W "${_pikaforge_sessions[*]}" -- "${COMP_WORDS[COMP_CWORD]}")
        ;;
    esac
    return 0
  fi
  local -a words=(pikaforge "${COMP_WORDS[@]:end+1}")
  local cword=$((COMP_CWORD - end))
  if [[ $verb != tool ]]; then
    words=(pikaforge "$verb" "${words[@]:1}")
    cword=$((cword + 1))
  fi
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$cword
  _shtab_pikaforge
}

complete -o bashdefault -o default -F _pikaforge_nox nox
