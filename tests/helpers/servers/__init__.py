"""Servers in a thread or a process of their own."""
