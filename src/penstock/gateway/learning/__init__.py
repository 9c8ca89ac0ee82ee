"""Bandits in a gateway: who answers is chosen by what rewards have taught."""
