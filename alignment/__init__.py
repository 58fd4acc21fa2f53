"""How a model is made and run: backbone and roles, engine, tuning, reward models, PPO, run directories."""

import logging

# at its import bitsandbytes asks a hub for an optional kernel and logs that there is none; its own kernels serve
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
