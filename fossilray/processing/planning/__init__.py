"""What an archive will take: hours, GPU-hours, money, storage; every number with where it comes from."""
