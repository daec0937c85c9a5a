# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Completion of dksm by bash: read this in ~/.bashrc, or install it as
# /usr/share/bash-completion/completions/dksm. Commands, options and what they take are
# read from dksm's own help, so that they are those of the dksm that is there.

# Options stand in the usage and begin rows.
__dksm_options() {
	sed -n '/^Usage:/,/^$/p; /^  --/s/\(--[a-z-]*\).*/\1/p' <<<"$help" | grep -o -e '--[a-z][a-z-]*'
	echo --help
}

# What an option takes, for instance NAME, or nothing.
__dksm_value_of() { # OPTION
	[[ ! $help =~ $'\n'"  $1 "([A-Z]+)" " ]] || echo "${BASH_REMATCH[1]}"
}

__dksm_commands() {
	"$dksm" --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

__dksm_domains() {
	"$dksm" stat --prometheus 2>/dev/null | sed -n 's/^dksm_domain_saved_bytes{domain="\(.*\)"}.*/\1/p'
}

# Without kernel threads and what others' processes are.
__dksm_pids() {
	local directory
	for directory in /proc/[0-9]*; do
		[ ! -e "$directory/exe" ] || echo "${directory#/proc/}"
	done
}

# How many words before the current one are neither options nor their values.
__dksm_operands() {
	local i count=0
	for ((i = 2; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--) count=$((count + COMP_CWORD - i - 1)); break ;;
		-*)
			[ -n "$(__dksm_value_of "${COMP_WORDS[i]}")" ] || continue
			i=$((i + 1))
			[ "${COMP_WORDS[i]}" != = ] || i=$((i + 1))
			;;
		*) count=$((count + 1)) ;;
		esac
	done
	echo "$count"
}

__dksm_candidates() { # WORD WORD_BEFORE: one a line, or nothing for files
	local value operands
	value=$(__dksm_value_of "$2")
	operands=$(__dksm_operands)
	if [ "$COMP_CWORD" = 1 ]; then
		__dksm_commands
		__dksm_options
	elif [[ $help == "Usage: dksm run "* ]] && [ "$operands" -gt 0 ]; then
		:	# the VMM's own words
	elif [ "$value" = NAME ]; then
		__dksm_domains
	elif [ -n "$value" ]; then
		:
	elif [[ $1 == -* ]]; then
		__dksm_options
	elif [[ $help == "Usage: dksm run "* ]]; then
		compgen -c -- "$1"
	elif [[ ${help%%$'\n'*} == *PID* ]] && [ "$operands" = 0 ]; then
		__dksm_pids
	fi
}

_dksm() {
	local dksm=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local help candidate
	# The words of --domain=web are three.
	[ "$before" != = ] || before=${COMP_WORDS[COMP_CWORD - 2]}
	[ "$word" != = ] || word=''
	if [ "$COMP_CWORD" = 1 ]; then
		help=$("$dksm" --help 2>/dev/null)
	else
		help=$("$dksm" "${COMP_WORDS[1]}" --help 2>/dev/null)
	fi
	COMPREPLY=()
	while read -r candidate; do
		[[ $candidate != "$word"* ]] || COMPREPLY+=("$candidate")
	done < <(__dksm_candidates "$word" "$before")
}

complete -o default -F _dksm dksm
