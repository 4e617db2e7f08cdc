"""The command line: from arguments to the rooms' functions, and from their results to the console.

Heavy imports (torch, ray) are inside of the commands, so that `ncbatch status` answers at once.
"""
