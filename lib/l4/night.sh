#!/bin/sh
# One night of the study on a VM: run it, copy the results to the bucket, stop the machine. colors.service starts this
# at every boot until it has come to its end, so that a VM that was stopped goes on from its last checkpoint.
# Variables: BUCKET (gs://NAME), ARGS ("-p FIELD VALUE ...", optional), GROUP and ZONE (of a managed instance group).
cd "$(dirname "$0")/../.." || exit 2
: "${BUCKET:?is not set: write BUCKET=gs://YOUR_BUCKET to build/night.env}"
stopped=
# shellcheck disable=SC2086  # ARGS holds several words
.venv/bin/python -m lib.headless.run_notebooks --profile l4 ${ARGS:-} &
study=$!
trap 'stopped=yes; kill -TERM "$study"' TERM INT
wait "$study"
status=$?
if [ "$stopped" ]; then
  wait "$study" # a training saves a checkpoint before it ends
  echo "night.sh: stopped from outside; the next boot goes on from the last checkpoint"
  exit 143
fi
echo "night.sh: the study ended with status $status (0: all runs passed)"
for folder in reports/l4 build/l4/*/notebooks build/l4/*/controlnet; do
  if [ -d "$folder" ] && ! gcloud storage rsync --recursive "$folder" "$BUCKET/$folder"; then
    echo "night.sh: $folder was NOT copied to $BUCKET; it stays on this disk"
  fi
done
gcloud storage cp l4.log "$BUCKET/l4.log"
sudo systemctl disable colors.service # so that the next boot only boots
if [ "${GROUP:-}" ]; then
  gcloud compute instance-groups managed resize "$GROUP" --zone "${ZONE:?}" --size 0 # it would start a VM that is off
else
  sudo poweroff
fi
exit "$status"
