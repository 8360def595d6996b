"""Where a checkpoint comes from: its name taken apart, the hub, folders and files, LoRAs, and digests of them all."""
