#!/usr/bin/env bash
# A real slurm on this machine: munge, a controller and two nodes, all in one folder. Run by root.
#
#   bash tests/slurm/cluster.sh start FOLDER [GPUS]   up in about a second; then export SLURM_CONF=FOLDER/slurm.conf
#   bash tests/slurm/cluster.sh stop FOLDER           ends what was started there, and the jobs it runs
#
# Needs Debian's packages: apt-get install --no-install-recommends slurm-wlm slurmctld slurmd munge
# GPUS (default 0): fake ones per node, /dev/null under other names, to see what slurm tells its tasks of them.
# PORT (default 16817) and the two ports behind it are used on 127.0.0.1.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 start|stop FOLDER" >&2; exit 2; }
action=$1 folder=$(mkdir -p "$2" && cd "$2" && pwd) gpus=${3:-0} port=${PORT:-16817}
export SLURM_CONF=$folder/slurm.conf

wait_for() { # a command that has to succeed within ten seconds
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "error: '$*' does not succeed; see the logs in $folder" >&2
    exit 1
}

nodes_are_idle() {
    [ "$(sinfo --noheader --format=%D --states=idle)" = 2 ]
}

# The names of the nodes have to resolve, as those of a cluster do: addresses of the loopback do on every machine.
write_configuration() {
    local gres=""
    for ((i = 0; i < gpus; i++)); do
        [ -e "$folder/gpu$i" ] || mknod "$folder/gpu$i" c 1 3
        echo "Name=gpu File=$folder/gpu$i" >>"$folder/gres.conf"
        gres="Gres=gpu:$gpus"
    done
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$port
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued waits as long as a credential lives: by default two minutes.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
# Busy machines answer late; ten seconds is the default.
MessageTimeout=90
SlurmdParameters=config_overrides
${gres:+GresTypes=gpu}
NodeName=127.0.0.[2-3] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=4 RealMemory=2000 $gres
PartitionName=debug Nodes=ALL Default=YES OverSubscribe=YES MaxTime=INFINITE
END
}

start() {
    mkdir -p "$folder"/{state,127.0.0.2,127.0.0.3}
    rm -f "$folder"/gres.conf
    write_configuration
    [ -s "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
        --log-file "$folder/munged.log" --seed-file "$folder/munge.seed"
    slurmctld
    slurmd -N 127.0.0.2
    slurmd -N 127.0.0.3
    wait_for nodes_are_idle
}

stop() {
    scancel --signal=KILL --full --user "$(id -un)" 2>/dev/null || echo "no controller to cancel jobs with" >&2
    for pid_file in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munged.pid"; do
        [ -s "$pid_file" ] || continue
        kill "$(cat "$pid_file")" 2>/dev/null || continue
        wait_for test ! -e "/proc/$(cat "$pid_file" 2>/dev/null || echo 0)"
    done
}

"$action"
