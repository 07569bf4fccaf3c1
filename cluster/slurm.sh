#!/usr/bin/env bash
# A run on SLURM: sbatch cluster/slurm.sh CONFIG RUN_DIR [KEY=VALUE ...]. The same line again goes on with a run that was cut off.
#SBATCH --job-name=fedphd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --exclusive
#SBATCH --signal=B:TERM@60
# Add --gpus-per-node=1 for GPUs. Nodes are taken whole: two Ray clusters on one node would fight for ports.
set -euo pipefail
config=${1:?CONFIG}; out=${2:?RUN_DIR}; shift 2
overrides=(); for pair in "$@"; do overrides+=(--set "$pair"); done

export PATH=${FEDPHD_ENV:-/opt/fedphd}/bin:$PATH
# A token of this job alone, which only its owner can read; every node finds it in the run's folder.
mkdir -p "$out"; umask 077
token=$out/.ray-token-$SLURM_JOB_ID
python -c 'import secrets; print(secrets.token_hex(32))' > "$token"
trap 'rm -f "$token"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_ENABLE_UV_RUN_RUNTIME_ENV=0

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<< "$nodes")
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
gpus=${SLURM_GPUS_ON_NODE:-0}

# The driver runs on the head alone; when it ends, so does the cluster.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 \
    ray symmetric-run --address "$address:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$gpus" -- \
    python -m fedphd_ray run "$config" --out "$out" --resume-if-exists "${overrides[@]}"
