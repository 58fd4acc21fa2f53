"""How a model is made and run: backbone and roles, engine, tuning, reward models, PPO, run directories."""
