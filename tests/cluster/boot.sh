#!/bin/bash
# The first process of a machine of the test cluster: `boot.sh NAME ADDRESS STATE [SHARED…]`, in namespaces of
# its own. Gives the machine its name, its network and, if it is a node, its own /tmp and /dev/shm; then
# waits. When this process dies, every process of the machine dies with it: a power cut.
set -eu
name=$1 address=$2 state=$3
shift 3

hostname "$name"
mount --bind "$state/conf/hosts" /etc/hosts
ip link set lo up
if [ "$name" = head ]; then
  # The switch that the nodes' cables are plugged into.
  ip link add switch type bridge
  ip address add "$address/24" dev switch
  ip link set switch up
  # The accounting's database lives as long as the cluster, so memory will do.
  mkdir -p "$state/database"
  mount -t tmpfs -o size=1g,mode=700 tmpfs "$state/database"
else
  # A node boots with clean disks of its own. All else of the file system is what a cluster's nodes share.
  own=$state/node/$name
  rm -rf --one-file-system "$own"
  mkdir -p "$own/tmp" "$state/spool/$name"
  chmod 1777 "$own/tmp"
  for shared; do # folders below /tmp that are to be seen all the same
    mkdir -p "$own/tmp/${shared#/tmp/}"
    mount --rbind "$shared" "$own/tmp/${shared#/tmp/}"
  done
  mount --rbind "$own/tmp" /tmp
  mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
  for ((tries = 0; tries < 200; tries++)); do # the cable is plugged in from outside
    ip link show eth0 >/dev/null 2>&1 && break
    sleep 0.05
  done
  ip address add "$address/24" dev eth0
  ip link set eth0 up
fi
cd /
: >"$state/run/$name.booted"
trap 'exit 0' TERM
while :; do # as the machine's first process, bash also takes in the orphans
  sleep 86400 &
  wait $! || true
done
