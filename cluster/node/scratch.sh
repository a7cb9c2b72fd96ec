#!/usr/bin/env bash
# Local NVMe as one folder for staged slides: `scratch.sh FOLDER [DISK_LINKS]`, once for each machine, again at no harm.
#
# The disks that vanish with the machine are found by the names that AWS and Google give them. Several become one
# (RAID 0: what is on them is a copy). What an image has mounted by itself (AWS's deep learning images do) is used as it
# is. Without any such disk the folder lies on the root disk, and a line reports it.
set -euo pipefail

folder=${1:?give the folder, for example /scratch}
links=${2:-/dev/disk/by-id}
mounted_by_image=/opt/dlami/nvme

if mountpoint -q "$folder"; then
  echo "scratch: $folder is there already"
  exit 0
fi
sudo mkdir -p "$folder"

disks=$(
  for link in "$links"/nvme-Amazon_EC2_NVMe_Instance_Storage_* "$links"/google-local-nvme-ssd-*; do
    # Partitions are no disks, and the same disk has several names.
    if [[ -e $link && $link != *-part* ]]; then readlink -f "$link"; fi
  done | sort -u
)
mapfile -t disks < <(printf '%s' "$disks")

if mountpoint -q "$mounted_by_image"; then
  sudo mount --bind "$mounted_by_image" "$folder"
  echo "scratch: $folder is $mounted_by_image"
elif ((${#disks[@]} == 0)); then
  echo "scratch: no local NVMe here; $folder lies on the root disk, which is smaller and slower" >&2
else
  disk=${disks[0]}
  if ((${#disks[@]} > 1)); then
    disk=/dev/md0
    sudo mdadm --create "$disk" --run --level=0 --raid-devices="${#disks[@]}" "${disks[@]}"
  fi
  sudo mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard "$disk"
  sudo mount -o noatime "$disk" "$folder"
  echo "scratch: $folder is ${disks[*]}"
fi
sudo chown "$(id -u):$(id -g)" "$folder"
