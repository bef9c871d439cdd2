#!/bin/sh
# Runs on a node before a job's first process. A crashed node leaves the PMIx sockets and folders of its job.
# Without this script, the requeued job would fail because of them ("Address already in use", "File exists").
# shellcheck disable=SC2154 # slurm_cluster.py fills it in
rm -rf "/tmp/spmix_appdir_"*"_$SLURM_JOB_ID".* \
  "$state/spool/$SLURMD_NODENAME/stepd.slurm.pmix.$SLURM_JOB_ID".* \
  "$state/spool/$SLURMD_NODENAME/pmix.$SLURM_JOB_ID".*
