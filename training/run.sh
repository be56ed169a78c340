#!/bin/sh
# All stages one after the other, each going on from its checkpoint. The process that is working
# is named in run/train.pid: kill -STOP and -CONT pause it, kill -TERM saves and ends the chain.
#   setsid nohup nice -n 19 training/run.sh 0.75 5 >>training/run/train.log 2>&1 &
set -e
cd "$(dirname "$0")"
python=${PYTHON:-../.venv/bin/python}
export MALLOC_TOP_PAD_=1073741824 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 # fewer page faults
stage() {
    "$python" emoji.py "$@" &
    echo $! >run/train.pid
    wait $!
}
if [ ! -e run/latents.safetensors ]; then
    stage autoencoder --hours "${1:-0.75}"
    stage latents
fi
stage unet --compiled --hours "${2:-5}"
