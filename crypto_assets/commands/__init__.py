"""The commands of ``crypto-assets``, one module a family; signatures and help texts are in ``cli.py``.

Belongs here: what a command does and says. Does not: what the product knows (contracts, lake, checks), which the
commands only ask. Every module imports what is heavy inside its functions, so that ``--help`` stays quick.
"""
