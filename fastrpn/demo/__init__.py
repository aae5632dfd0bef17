"""The demo: what fastrpn does, seen on this machine in minutes."""

from fastrpn._extras import require

require("train")

from fastrpn.demo.run import run_demo
from fastrpn.demo.synthetic import demo_config

__all__ = ["demo_config", "run_demo"]
