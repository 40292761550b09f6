# shellcheck shell=bash
# Sourced by posix, programs and measure: a temporary cluster of real server processes, a mount of it, and one that kills
# nodes meanwhile. Whatever is started here is ended when the script ends, by its process id.
#
# Who sources it sets `everhold`, the program, and may set `keep`, a directory for the logs.
nodes=5 zones=3 segment=32MiB
cluster_pid='' mount_pid='' killer_pid=''

fail() { printf 'scripts/%s: %s\n' "$(basename "$0")" "$*" >&2; exit 2; }

# Directories: `work` is removed at the end, `local` is for comparison, and `mount` is the mount point.
directories() {
    [[ $EUID -eq 0 && -w /dev/fuse ]] || fail "root and /dev/fuse are needed"
    # Programs change users, and those must get to the mount.
    work=$(mktemp -d); chmod 755 "$work"
    logs=${keep:-$work/logs}; mkdir -p "$logs"; logs=$(realpath "$logs")
    mount=$work/mount local=$work/local
    mkdir "$mount" "$local"
    export XDG_STATE_HOME=$work/state
    unset EVERHOLD_CLUSTER
    trap finish EXIT
    trap 'exit 130' INT TERM
}

# Who sources it may have processes of its own that must go before the mount.
end_programs() { :; }

finish() {
    local status=$?
    set +e
    end_killer
    end_programs
    if [[ -n $mount_pid ]]; then
        timeout 60 "$everhold" umount "$mount" 2> /dev/null || umount -l "$mount" 2> /dev/null
        wait "$mount_pid"
    fi
    [[ -z $cluster_pid ]] || { kill -TERM "$cluster_pid"; wait "$cluster_pid"; } 2> /dev/null
    if [[ $status -ne 0 && -e $logs/mount.log ]]; then
        printf '\n-- end of the log of the mount\n' >&2
        tail -n 20 "$logs/mount.log" >&2
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}

# Waits up to a minute for a line of a log.
await() {
    local file=$1 text=$2 deadline=$((SECONDS + 60))
    until grep -qs -- "$text" "$file"; do
        [[ $SECONDS -lt $deadline ]] || { cat "$file" "${file%.out}.log" >&2; fail "no '$text' in a minute"; }
        sleep 0.1
    done
}

start_cluster() {
    "$everhold" up --json --nodes "$nodes" --zones "$zones" --segment-size "$segment" --dir "$work/cluster" \
        > "$logs/up.out" 2> "$logs/up.log" &
    cluster_pid=$!
    await "$logs/up.out" '"ready": true'
}

start_mount() {
    # An old line must not be taken for the new one.
    : > "$logs/mount.out"
    "$everhold" mount --foreground --dev-suid "$mount" > "$logs/mount.out" 2>> "$logs/mount.log" &
    mount_pid=$!
    await "$logs/mount.out" "mounted on"
}

# Unmounts and mounts again: what is read then comes from the cluster, and from no memory of this machine.
mount_anew() {
    local pid=$mount_pid
    "$everhold" umount "$mount" || fail "it cannot be unmounted"
    mount_pid=
    wait "$pid" || fail "the mount's process ended with an error"
    start_mount
}

# One node after another is killed, and started again, every 30 s.
start_killer() {
    (
        trap 'kill $! 2> /dev/null; exit 0' TERM
        for ((turn = 0; ; turn++)); do
            node=$((turn % nodes + 1))
            sleep 15 & wait $!
            "$everhold" node stop "$node" --kill
            sleep 15 & wait $!
            "$everhold" node start "$node"
        done
    ) > "$logs/kill.log" 2>&1 &
    killer_pid=$!
}

end_killer() {
    [[ -n $killer_pid ]] || return 0
    { kill "$killer_pid"; wait "$killer_pid"; } 2> /dev/null || true
    killer_pid=
}

nodes_killed() { grep -c killed "$logs/kill.log" || true; }
