# fish completion of holdfast(1).
complete -c holdfast -f
set -l nouns send receive queue cluster journal store user bench doctor version help
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a send -d 'send messages to an address'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a receive -d 'print and acknowledge messages'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a queue -d 'list and change queues'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a cluster -d 'who leads'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a journal -d 'verify, inspect or salvage a data directory'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a store -d 'what is queued, and whether it is sound'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a user -d 'hash a password'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a bench -d 'measure a broker'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a doctor -d 'check this machine'
complete -c holdfast -n "not __fish_seen_subcommand_from $nouns" -a version -d 'print the version'
complete -c holdfast -n "__fish_seen_subcommand_from queue" -a 'list show create delete purge pause resume'
complete -c holdfast -n "__fish_seen_subcommand_from cluster" -a 'status step-down'
complete -c holdfast -n "__fish_seen_subcommand_from journal" -a 'verify inspect salvage (__fish_complete_directories)'
complete -c holdfast -n "__fish_seen_subcommand_from store" -a 'stat verify rebuild-index (__fish_complete_directories)'
complete -c holdfast -n "__fish_seen_subcommand_from user" -a hash
complete -c holdfast -n "__fish_seen_subcommand_from bench" -a amqp
complete -c holdfast -s o -l output -x -a 'table json yaml text' -d 'how to print it'
complete -c holdfast -s u -l url -x -d 'the broker'
complete -c holdfast -s a -l admin -x -d 'the admin API'
complete -c holdfast -l user -x -d 'log in as this user'
complete -c holdfast -l password-file -r -F -d 'read the password from this file'
complete -c holdfast -s h -l help -d 'explain the command'
complete -c holdfast -n "__fish_seen_subcommand_from receive" -l outcome -x -a 'accept reject release modify'
complete -c holdfast -n "__fish_seen_subcommand_from receive" -s F -l follow -d 'go on until interrupted'
complete -c holdfast -n "__fish_seen_subcommand_from send" -s f -l file -r -F -d 'the body'
complete -c holdfast -n "__fish_seen_subcommand_from doctor salvage" -s d -l data-dir -r -a '(__fish_complete_directories)'
complete -c holdfast -n "__fish_seen_subcommand_from inspect salvage store" -s k -l key-file -r -F -d 'the master key'
complete -c holdfast -n "__fish_seen_subcommand_from rebuild-index doctor" -l index-dir -r -a '(__fish_complete_directories)' -d "the broker's index_dir"
complete -c holdfast -n "__fish_seen_subcommand_from salvage" -s t -l to -r -a '(__fish_complete_directories)' -d 'the new directory'
