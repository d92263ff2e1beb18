# bash completion of holdfast(1).  The options come from each command's own
# --help, so that there is no second list to keep.
_holdfast()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local noun=${COMP_WORDS[1]-} verb=${COMP_WORDS[2]-} command

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W 'send receive queue cluster journal store
			user bench doctor version help' -- "$cur"))
		return
	fi
	if [ "$COMP_CWORD" -eq 2 ]; then
		case $noun in
		queue) COMPREPLY=($(compgen -W 'list show create delete purge
			pause resume' -- "$cur"))
			return ;;
		cluster) COMPREPLY=($(compgen -W 'status step-down' \
			-- "$cur"))
			return ;;
		journal) COMPREPLY=($(compgen -W 'verify inspect salvage' \
			-- "$cur"))
			return ;;
		store) COMPREPLY=($(compgen -W 'stat verify rebuild-index' \
			-- "$cur"))
			return ;;
		user) COMPREPLY=($(compgen -W 'hash' -- "$cur")); return ;;
		bench) COMPREPLY=($(compgen -W 'amqp' -- "$cur")); return ;;
		esac
	fi
	case $prev in
	--output|-o)
		COMPREPLY=($(compgen -W 'table json yaml text' -- "$cur"))
		return ;;
	--outcome)
		COMPREPLY=($(compgen -W 'accept reject release modify' \
			-- "$cur"))
		return ;;
	--routing)
		COMPREPLY=($(compgen -W 'anycast multicast' -- "$cur"))
		return ;;
	--file|-f|--password-file|--key-file|-k)
		COMPREPLY=($(compgen -f -- "$cur"))
		return ;;
	--data-dir|-d|--index-dir|--to|-t)
		COMPREPLY=($(compgen -d -- "$cur"))
		return ;;
	esac
	case $noun in
	queue|cluster|journal|store|user|bench) command="$noun $verb" ;;
	*) command=$noun ;;
	esac
	if [[ $cur == -* ]]; then
		# shellcheck disable=SC2086
		COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" $command --help \
			2>/dev/null | grep -oE -- '--[a-z-]+' | sort -u)" \
			-- "$cur"))
	elif [ "$noun" = journal ] || [ "$noun" = store ]; then
		COMPREPLY=($(compgen -d -- "$cur"))
	fi
}
complete -o default -F _holdfast holdfast
