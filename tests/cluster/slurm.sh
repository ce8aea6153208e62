#!/usr/bin/env bash
# A Slurm of one node for tests, in a folder of its own: own configuration, keys, ports and state,
# so that neither /etc/slurm nor a cluster that this machine belongs to is touched.
#
#   slurm.sh install      the programs, by apt, when they are missing and it may
#   slurm.sh start DIR    then `source DIR/environment` to talk to it
#   slurm.sh stop DIR     ends what `start` began, by the process ids that it noted
set -euo pipefail

say() { echo "slurm.sh: $*" >&2; }

PATH="$PATH:/usr/sbin:/sbin"
programs=(slurmctld slurmd munged)

missing() {
    local program
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || { echo "$program"; return; }
    done
}

install() {
    [ -n "$(missing)" ] || return 0
    local admin=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            say "no $(missing) here, and no right to install it; as root: apt-get install slurm-wlm munge"
            return 1
        fi
        admin=(sudo)
    fi
    if ! command -v apt-get >/dev/null; then
        say "no $(missing) here, and no apt-get to install it with; install Slurm and MUNGE"
        return 1
    fi
    say "installing slurm-wlm and munge"
    "${admin[@]}" apt-get update -qq
    "${admin[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
    [ -z "$(missing)" ] || { say "$(missing) is still missing"; return 1; }
}

# below those that systems hand out themselves
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

configure() {
    local dir=$1 node
    # "CPUs=2 Boards=1 SocketsPerBoard=1 ... RealMemory=16000", as Slurm sees this machine
    node=$(slurmd -C | sed -n 's/^NodeName=[^ ]* //p')
    dd if=/dev/urandom of="$dir/munge.key" bs=128 count=1 status=none
    chmod 400 "$dir/munge.key"
    cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
PlugStackConfig=$dir/plugstack.conf
# Memory is watched by the second, and a job above what it asked for is killed: no cgroups needed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0
SwitchType=switch/none
MpiDefault=none
ReturnToService=1
KillWait=5
GresTypes=gpu
NodeName=test NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 $node Gres=gpu:1
PartitionName=debug Nodes=test Default=YES MaxTime=INFINITE State=UP
END
    printf 'CgroupPlugin=autodetect\nIgnoreSystemd=yes\n' >"$dir/cgroup.conf"
    # a GPU in name, to be asked for
    echo 'NodeName=test Name=gpu File=/dev/null' >"$dir/gres.conf"
    : >"$dir/plugstack.conf"
    mkdir "$dir/state" "$dir/spool" "$dir/bin"
    # Snakemake's job step clears SLURM_* for the srun that it starts, SLURM_CONF with it.
    cat >"$dir/bin/srun" <<END
#!/bin/sh
SLURM_CONF=$dir/slurm.conf exec $(command -v srun) "\$@"
END
    chmod +x "$dir/bin/srun"
    printf 'export SLURM_CONF=%q PATH=%q:$PATH\n' "$dir/slurm.conf" "$dir/bin" >"$dir/environment"
}

# a command, until it succeeds, for half a minute
await() {
    local try
    for try in $(seq 60); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.5
    done
    return 1
}

idle() { [ "$(sinfo --noheader --format %T)" = idle ]; }

start() {
    local dir
    dir=$(realpath "$1")
    configure "$dir"
    # --force: the folder may be readable by its owner alone
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    # shellcheck disable=SC1091
    source "$dir/environment"
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N test
    if ! await idle; then
        tail -n 20 "$dir"/*.log >&2
        say "the node does not answer"
        stop "$dir"
        return 1
    fi
}

stop() {
    local dir name pid
    dir=$(realpath "$1")
    for name in slurmd slurmctld munged; do
        if [ -e "$dir/$name.pid" ]; then
            pid=$(cat "$dir/$name.pid")
            kill "$pid" 2>/dev/null || true
            await eval "! kill -0 $pid" || kill -KILL "$pid" || true
        fi
    done
}

case "${1-}" in
    install) install ;;
    start | stop) "$1" "$2" ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
