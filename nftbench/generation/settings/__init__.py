"""What a checkpoint's settings do: found by drawing once and watching the network, never by its name."""
