"""Who competes. Each module is a program that one interpreter runs; the peers' modules import nothing of espl_jax."""
