"""The sub-commands of `llama-nas`, one module per family of stages; `cli.py` has the table of all.

Each stage is a pair of functions, `<stage>_arguments` and `<stage>`: nothing heavy is imported before the stage that
needs it runs, and a stage's code digest (code_digest.py) covers its own pair, with the options they use, and nothing
else of these modules.
"""
