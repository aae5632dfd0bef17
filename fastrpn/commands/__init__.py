"""The commands of the command line, one module each.

A module's docstring is the command's help, `add_options(parser)` declares its options and
`run(options)` does the work. Modules import torch within these functions, not at their top, so
that `fastrpn --help` answers at once.
"""

from . import anchors, demo, detect, evaluate, info, proposals, train

COMMANDS = {
    "demo": demo,
    "train": train,
    "eval": evaluate,
    "detect": detect,
    "proposals": proposals,
    "anchors": anchors,
    "info": info,
}
