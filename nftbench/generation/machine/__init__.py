"""What a model takes of a machine: device, precision, memory, text encoders that leave it."""
