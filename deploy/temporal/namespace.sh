#!/bin/sh
# Creates the default namespace, with a retention of 30 days; may run any number of times.
set -eu
tries=0
until temporal operator namespace describe --namespace default >/dev/null 2>&1 ||
  temporal operator namespace create --namespace default --retention 30d; do
  tries=$((tries + 1))
  [ "$tries" -lt 30 ] || exit 1
  sleep 2
done
