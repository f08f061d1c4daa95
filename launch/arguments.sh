#!/usr/bin/env bash
# Sourced by the launchers: how arguments are read and checked, and how a command is shown or done. For bash 3.2 and later.
#
#   SCRIPT COMMAND [--flag=value ...] [--dry-run] [-- flags of espl_jax.main]
#
# A flag's value is in the variable of its name (max-restarts: max_restarts), which the launcher sets to its default before.

DRY_RUN=""  # not empty: commands are printed, so that they could be pasted, and nothing is done
MAIN=()     # what stands behind --; expanded as ${MAIN[@]+...}: bash before 4.4 calls an empty array unset

fail() {
  echo "error: $*" >&2
  exit 2
}

# The words as one line that a shell reads back as the same words.
quote() {
  local word rest quoted line=""
  for word in "$@"; do
    case $word in
      "" | *[!A-Za-z0-9_@%+=:,./-]*)
        rest=$word
        quoted=""
        while [ "${rest#*\'}" != "$rest" ]; do
          quoted=$quoted${rest%%\'*}"'\\''"
          rest=${rest#*\'}
        done
        word="'$quoted$rest'"
        ;;
    esac
    line=${line:+$line }$word
  done
  printf '%s\n' "$line"
}

# Shows a command in a dry run; else shows it on standard error and does it.
perform() {
  if [ -n "$DRY_RUN" ]; then
    quote "$@"
  else
    quote "$@" >&2
    "$@"
  fi
}

# Says something about what comes next.
note() {
  if [ -n "$DRY_RUN" ]; then echo "# $*"; else echo "$*" >&2; fi
}

# read_flags "name zone spot! ..." ARGUMENTS: the flags that there are; those with ! are switches, without a value.
read_flags() {
  local flags=" $1 " argument flag
  shift
  while [ $# -gt 0 ]; do
    argument=$1
    shift
    flag=${argument%%=*}
    flag=${flag#--}
    case $argument in
      --) MAIN=("$@") && return ;;
      --dry-run) DRY_RUN=1 && continue ;;
      --*) ;;
      *) fail "the argument $(quote "$argument") is no flag; write --flag=value, and flags of espl_jax.main behind --" ;;
    esac
    case $flag in *[!a-z-]*) fail "the flag $(quote "$argument") is unknown; use one of:$(_listed "$flags")" ;; esac
    case "$flags,$argument" in
      *" $flag "*,*=*) printf -v "${flag//-/_}" %s "${argument#*=}" ;;
      *" $flag "*) fail "--$flag has no value; write --$flag=VALUE" ;;
      *" $flag! "*,*=*) fail "--$flag is $(quote "${argument#*=}"), but it takes no value; write --$flag alone" ;;
      *" $flag! "*) printf -v "${flag//-/_}" %s 1 ;;
      *) fail "the flag --$flag is unknown; use one of:$(_listed "$flags")" ;;
    esac
  done
}

_listed() {
  local flag
  for flag in $1 dry-run; do printf ' --%s' "${flag%!}"; done
}

# check FLAG REGEX REMEDY: the whole value must match the extended regular expression.
check() {
  local LC_ALL=C variable_=${1//-/_} regex="^($2)\$" # variable_: a name that no flag has; C: [a-z] has no capitals
  [[ ${!variable_} =~ $regex ]] || fail "--$1 is $(quote "${!variable_}"); $3"
}

# The flags behind -- that no launcher can do without, or gives itself. Where no coordinator is named, the processes of a run
# find each other as the cluster says; the flag stands last, for --config has to come before.
check_main() {
  local flag config="" coordinator=""
  for flag in ${MAIN[@]+"${MAIN[@]}"}; do
    case $flag in
      --config=?*) config=1 ;;
      --config.hosts.coordinator=*) coordinator=1 ;;
      --workdir*) fail "$(quote "$flag") stands behind --; give --workdir before it, for the launcher needs it too" ;;
      --*) ;;
      *) fail "$(quote "$flag") behind -- is no flag; write --config.field=value" ;;
    esac
    case $flag in *$'\n'*) fail "$(quote "$flag") has a line break; leave it out" ;; esac
  done
  [ -n "$config" ] || fail "--config is missing behind --; write -- --config=experiments/NAME.py"
  [ -n "$coordinator" ] || MAIN=("${MAIN[@]}" --config.hosts.coordinator=auto)
}
