#!/bin/sh
# SPDX-License-Identifier: MIT
# Swap to 256 MiB of compressed memory: run this in the VM.
set -eu
echo 256M >/sys/block/zram0/disksize
mkswap /dev/zram0 >/dev/null
swapon /dev/zram0
