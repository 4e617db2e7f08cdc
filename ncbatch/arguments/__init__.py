"""The arguments of each command, one module for each kind of command."""
