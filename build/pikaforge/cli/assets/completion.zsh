# Add the names of some kinds. The list is made anew if matrix.yaml is younger.
_pikaforge_list() { # kind...
  local kind name
  local -a found
  if [[ ! -e $_pikaforge_names_path || $_pikaforge_matrix_path -nt $_pikaforge_names_path ]]; then
    PYTHONPATH=$_pikaforge_source_path "$_pikaforge_python_path" -m pikaforge completion names \
      --matrix "$_pikaforge_matrix_path" --out "${_pikaforge_names_path%/*}" >/dev/null 2>&1 </dev/null
  fi
  [[ -r $_pikaforge_names_path ]] || return 1
  while read -r kind name; do
    [[ " $* " == *" $kind "* && $name =~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' ]] || continue
    found+=("$name")
  done <"$_pikaforge_names_path"
  compadd -a found
}

_pikaforge_model() { _pikaforge_list model }
_pikaforge_image() { _pikaforge_list image }
_pikaforge_allocator() { _pikaforge_list allocator }
_pikaforge_destination() { _pikaforge_list destination }
_pikaforge_target() { _pikaforge_list target }
_pikaforge_cell() { _pikaforge_list cell }
_pikaforge_files() { _files }
_pikaforge_folders() { _files -/ }

# Models first: there are hundreds of cells, so they come with the first dash.
_pikaforge_selector() {
  if [[ $PREFIX == *-* ]]; then
    _pikaforge_list model cell
  else
    compadd all
    _pikaforge_list model
  fi
}

# nox -s VERB -- ARGUMENTS is completed as pikaforge VERB ARGUMENTS is.
_pikaforge_nox() {
  local index verb='' end=0
  for ((index = 2; index < CURRENT; index++)); do
    case $words[index] in
      (-s|--session|--sessions|-e) verb=$words[index+1] ;;
      (--) end=$index; break ;;
    esac
  done
  if ((end == 0)); then
    case $words[CURRENT-1] in
      (-s|--session|--sessions|-e) compadd -a _pikaforge_sessions ;;
      (*) _default ;;
    esac
    return
  fi
  local -a rest=("${(@)words[end+1,-1]}")
  if [[ $verb == tool ]]; then
    words=(pikaforge "${(@)rest}")
    ((CURRENT = CURRENT - end + 1))
  else
    words=(pikaforge "$verb" "${(@)rest}")
    ((CURRENT = CURRENT - end + 2))
  fi
  _shtab_pikaforge
}

compdef _pikaforge_nox nox
