"""Loading networks: in fewer bits, and with all their weights or not at all."""
