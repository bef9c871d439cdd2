#!/bin/bash
# The first process of a machine of the test cluster, in its own namespaces: `boot.sh NAME ADDRESS STATE
# [SHARED…]`. It sets the machine's name and network and, on a node, /tmp and /dev/shm. Then it waits. If this
# process is killed, the kernel kills all processes of the machine, as in a power failure.
set -eu
name=$1 address=$2 state=$3
shift 3

hostname "$name"
mount --bind "$state/conf/hosts" /etc/hosts
ip link set lo up
if [ "$name" = head ]; then
  # The network switch to which the nodes are connected.
  ip link add switch type bridge
  ip address add "$address/24" dev switch
  ip link set switch up
  # The accounting database exists only as long as the cluster, so it is in memory.
  mkdir -p "$state/database"
  mount -t tmpfs -o size=1g,mode=700 tmpfs "$state/database"
else
  # A node boots with an empty /tmp. All machines share the rest of the file system.
  own=$state/node/$name
  rm -rf --one-file-system "$own"
  mkdir -p "$own/tmp" "$state/spool/$name"
  chmod 1777 "$own/tmp"
  for shared; do # folders below /tmp that all nodes see
    mkdir -p "$own/tmp/${shared#/tmp/}"
    mount --rbind "$shared" "$own/tmp/${shared#/tmp/}"
  done
  mount --rbind "$own/tmp" /tmp
  mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
  for ((tries = 0; tries < 200; tries++)); do # slurm_cluster.py connects the network from outside
    ip link show eth0 >/dev/null 2>&1 && break
    sleep 0.05
  done
  ip address add "$address/24" dev eth0
  ip link set eth0 up
fi
cd /
: >"$state/run/$name.booted"
trap 'exit 0' TERM
while :; do # as the first process, bash also reaps orphaned processes
  sleep 86400 &
  wait $! || true
done
