#!/bin/sh
# SPDX-License-Identifier: MIT
# Swap to so much compressed memory (default 256M): run this in the VM.
set -eu
echo "${1:-256M}" >/sys/block/zram0/disksize
mkswap /dev/zram0 >/dev/null
swapon /dev/zram0
